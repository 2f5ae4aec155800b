"""Net2Net of taming: the runs that its stages become. Given label maps, the three of them compute
what its equations, written out in PyTorch, do.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest

import vqjax
from vqjax import api, convert
from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import _mingpt, complete, taming_transformer, taming_vqgan

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

LABELS, CODES, LAYOUT_CODES, WIDTH = 5, 12, 7, 16


def autoencoder(channels, codes, seed):
  """Random tensors under taming's names, which test_taming_vqgan checks against its own files."""
  config = dict(
    name="resnet",
    ch=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(),
    resolution=8,
    z_channels=8,
    quantizer=dict(name="vq", codebook_size=codes, dim=4),
  )
  rng = np.random.default_rng(seed)
  model = build("autoencoders", config, channels=channels)
  x = np.zeros((1, 8, 8, channels), np.float32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  draw = lambda path, s: 0.3 * rng.standard_normal(s.shape) + (path[-1].key == "scale")
  params = jax.tree_util.tree_map_with_path(draw, shapes.pop("params"))
  stats = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  state = taming_vqgan.write(dict(model=config), {"model": params}, {"model": stats})
  return {k: torch.from_numpy(v) for k, v in state.items()}


@pytest.fixture(scope="module")
def state():
  rng = np.random.default_rng(0)
  shapes = _mingpt._shapes(vocabulary=CODES, width=WIDTH, hidden=32, layers=2, block_size=32)
  state = {f"first_stage_model.{k}": v for k, v in autoencoder(3, CODES, 1).items()}
  state |= {f"cond_stage_model.{k}": v for k, v in autoencoder(LABELS, LAYOUT_CODES, 2).items()}
  state["cond_stage_model.colorize"] = torch.randn(3, LABELS, 1, 1)
  return state | {
    f"transformer.{k}": torch.from_numpy(rng.normal(0, 0.3, s).astype(np.float32))
    for k, s in shapes.items()
  }


def save(state, path):
  torch.save({"state_dict": state}, path)
  return [
    "--source=taming_transformer",
    f"--checkpoint={path}",
    f"--workdir={path.with_suffix('')}",
    "--option=heads=2",
    "--option=resolution=8",
  ]


def read(state, **options):
  arrays = {k: v.numpy() for k, v in state.items()}
  given = complete(dict(heads=2, resolution=8) | options, taming_transformer.OPTIONS)
  return taming_transformer.read([arrays], given, pathlib.Path("/runs/net"))


def test_the_runs_of_a_prior_given_maps(state):
  tokenizer, layouts, prior = read(state)
  assert [run.folder for run in (tokenizer, layouts, prior)] == [
    "tokenizer",
    "layout_tokenizer",
    "",
  ]
  images = dict(data=dict(name="shapes", size=16), ops=dict(size=8, channels=3))
  model = layouts.config["model"]
  assert layouts.config == images | dict(
    model=model,
    signal=dict(name="layout", classes=LABELS),
    loss=dict(reconstruction="binary_cross_entropy"),
  )
  assert "channels" not in model and layouts.spec == {"layout": ((8, 8), "uint8")}
  assert tokenizer.spec == {"image": ((8, 8, 3), "uint8")}
  assert prior.config == images | dict(
    task="prior",
    tokenizer="/runs/net/tokenizer",
    model=dict(name="transformer", layers=2, width=WIDTH, heads=2, hidden=32),
    scheme=dict(name="autoregressive"),
    condition=dict(layout_codes=dict(tokenizer="/runs/net/layout_tokenizer"), drop=0.0),
  )
  assert prior.spec == tokenizer.spec | layouts.spec
  assert prior.params["model"]["embed"]["table"].shape == (CODES + LAYOUT_CODES, WIDTH)


def test_the_runs_of_a_prior_given_classes(state):
  """Condition c is row c of their one table."""
  alone = {k: v for k, v in state.items() if not k.startswith("cond_stage_model.")}
  alone["first_stage_model.loss.discriminator.other"] = torch.zeros(1)  # is not looked at
  with pytest.raises(UserError, match="has places for 32 codes, no square"):
    read(alone)
  alone["transformer.pos_emb"] = state["transformer.pos_emb"][:, :16]
  tokenizer, prior = read(alone, classes=5)
  assert (tokenizer.folder, prior.folder, "disc" in tokenizer.config) == ("tokenizer", "", False)
  assert prior.config["condition"] == dict(label=dict(classes=5), drop=0.0)
  assert prior.spec == {"image": ((8, 8, 3), "uint8"), "label": ((), "int32")}
  table = prior.params["model"]["embed"]["table"]
  assert table.shape == (CODES + 5, WIDTH)
  np.testing.assert_array_equal(table[CODES + 4], state["transformer.tok_emb.weight"][4])
  _, prior = read(alone)
  assert prior.config["condition"] == dict(label=dict(classes=CODES), drop=0.0)
  with pytest.raises(UserError, match="--option classes: 13 of the condition is not in 1 .. 12"):
    read(alone, classes=13)
  with pytest.raises(UserError, match="holds no tensor first_stage_model"):
    read({k: v for k, v in alone.items() if k.startswith("transformer.")})


@pytest.fixture(scope="module")
def workdir(state, tmp_path_factory):
  folder = tmp_path_factory.mktemp("segmentation")
  convert.main(save(state, folder / "run.ckpt"))
  return folder / "run"


class Theirs:
  """The part of the state under `prefix`, as the functions of the paper."""

  def __init__(self, state, prefix):
    self.state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

  def conv(self, x, name, **options):
    weight = self.state[f"{name}.weight"]
    return F.conv2d(
      x,
      weight,
      self.state[f"{name}.bias"],
      padding=options.pop("padding", weight.shape[-1] // 2),
      **options,
    )

  def norm(self, x, name):
    return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

  def block(self, x, name):
    h = self.conv(F.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
    h = self.conv(F.silu(self.norm(h, f"{name}.norm2")), f"{name}.conv2")
    return h + (
      self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.state else x
    )

  def mid(self, x, name):
    x = self.block(x, f"{name}.mid.block_1")
    h = self.norm(x, f"{name}.mid.attn_1.norm")
    q, k, v = (self.conv(h, f"{name}.mid.attn_1.{part}").flatten(2) for part in "qkv")
    h = v @ torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, -1).transpose(1, 2)
    return self.block(
      x + self.conv(h.view_as(x), f"{name}.mid.attn_1.proj_out"), f"{name}.mid.block_2"
    )

  def ids(self, x):
    h = self.block(self.conv(x, "encoder.conv_in"), "encoder.down.0.block.0")
    h = self.conv(F.pad(h, (0, 1, 0, 1)), "encoder.down.0.downsample.conv", stride=2, padding=0)
    h = self.mid(self.block(h, "encoder.down.1.block.0"), "encoder")
    h = self.conv(
      self.conv(F.silu(self.norm(h, "encoder.norm_out")), "encoder.conv_out"), "quant_conv"
    )
    return torch.cdist(h.permute(0, 2, 3, 1), self.state["quantize.embedding.weight"][None]).argmin(
      -1
    )

  def decode(self, ids):
    z = self.state["quantize.embedding.weight"][ids].permute(0, 3, 1, 2)
    h = self.mid(self.conv(self.conv(z, "post_quant_conv"), "decoder.conv_in"), "decoder")
    h = self.block(self.block(h, "decoder.up.1.block.0"), "decoder.up.1.block.1")
    h = self.conv(F.interpolate(h, scale_factor=2.0), "decoder.up.1.upsample.conv")
    h = self.block(self.block(h, "decoder.up.0.block.0"), "decoder.up.0.block.1")
    return self.conv(F.silu(self.norm(h, "decoder.norm_out")), "decoder.conv_out")

  def logits(self, tokens):
    """minGPT: logits after every token, conditions and codes in one table."""
    s, length = self.state, tokens.shape[1]
    layer_norm = lambda x, name: F.layer_norm(x, (WIDTH,), s[f"{name}.weight"], s[f"{name}.bias"])
    dense = lambda x, name: F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])
    x = s["tok_emb.weight"][tokens] + s["pos_emb"][:, :length]
    for i in range(2):
      h = layer_norm(x, f"blocks.{i}.ln1")
      q, k, v = (
        dense(h, f"blocks.{i}.attn.{part}").unflatten(-1, (2, -1)).transpose(1, 2)
        for part in ("query", "key", "value")
      )
      h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
      x = x + dense(h, f"blocks.{i}.attn.proj")
      x = x + dense(
        F.gelu(dense(layer_norm(x, f"blocks.{i}.ln2"), f"blocks.{i}.mlp.0")), f"blocks.{i}.mlp.2"
      )
    return F.linear(layer_norm(x, "ln_f"), s["head.weight"])


@pytest.fixture(scope="module")
def pair():
  rng = np.random.default_rng(3)
  return rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32), rng.integers(0, LABELS, (2, 8, 8))


def close(ours, theirs):
  np.testing.assert_allclose(
    ours, np.asarray(theirs), rtol=1e-4, atol=1e-4 * np.abs(np.asarray(theirs)).max()
  )


@torch.no_grad()
def test_maps_go_through_their_tokenizer(state, workdir, pair):
  theirs, model = Theirs(state, "cond_stage_model."), api.load(workdir / "layout_tokenizer")
  one_hot = F.one_hot(torch.from_numpy(pair[1]), LABELS).permute(0, 3, 1, 2).float()
  ids = theirs.ids(one_hot)
  assert len(ids.unique()) > 2
  np.testing.assert_array_equal(model.encode(pair[1]), ids)
  variables = {"params": model.weights.params["model"], **model.weights.stats["model"]}
  autoencoder = model.info.modules.model
  logits = jax.jit(functools.partial(autoencoder.apply, method="from_tokens"))(
    variables, ids.numpy()
  )
  close(logits, theirs.decode(ids).permute(0, 2, 3, 1))
  np.testing.assert_array_equal(model.decode(ids.numpy()), theirs.decode(ids).argmax(1))


@torch.no_grad()
def test_probabilities_of_the_image_given_the_map(state, workdir, pair):
  image, layout = pair
  first, cond, transformer = (
    Theirs(state, f"{name}.") for name in ("first_stage_model", "cond_stage_model", "transformer")
  )
  ids = first.ids(torch.from_numpy(image).permute(0, 3, 1, 2))
  given = cond.ids(F.one_hot(torch.from_numpy(layout), LABELS).permute(0, 3, 1, 2).float())
  tokens = torch.cat([given.flatten(1), ids.flatten(1)], 1)
  logits = transformer.logits(tokens[:, :-1])[:, 15:]
  log_probs = torch.log_softmax(logits, -1).gather(-1, ids.flatten(1)[..., None])[..., 0]
  model = vqjax.load(workdir)
  np.testing.assert_array_equal(model.encode(image), ids)
  close(model.log_prob(np.asarray(ids), layout=layout, per_code=True), log_probs.numpy())
  # Two, so that the program for their maps is the one above.
  assert model.sample(2, layout=layout[0]).shape == (2, 8, 8, 3)


def test_a_file_of_the_tokenizer_alone_there_and_back(state, tmp_path):
  cond = {
    k.removeprefix("cond_stage_model."): v
    for k, v in state.items()
    if k.startswith("cond_stage_model.")
  }
  torch.save({"state_dict": cond}, tmp_path / "maps.ckpt")
  convert.main(
    [
      "--source=taming_vqgan",
      f"--checkpoint={tmp_path / 'maps.ckpt'}",
      f"--workdir={tmp_path / 'run'}",
      "--option=resolution=8",
    ]
  )
  convert.main(
    [
      "--target=taming_vqgan",
      f"--checkpoint={tmp_path / 'back.ckpt'}",
      f"--workdir={tmp_path / 'run'}",
    ]
  )
  back = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
  assert back.keys() == cond.keys() and back["colorize"].shape == cond["colorize"].shape
  for name in cond.keys() - {"colorize"}:
    np.testing.assert_array_equal(back[name], cond[name], err_msg=name)


def without(end):
  return lambda state: {k: v for k, v in state.items() if not k.endswith(end)}


FIRST = "cond_stage_model.encoder.conv_in.weight"


@pytest.mark.parametrize(
  "change, options, message",
  [
    (without("colorize"), {}, "cond_stage_model is no VQSegmentationModel"),
    (lambda s: s | {FIRST: torch.zeros(32, 3, 3, 3)}, {}, "cond_stage_model is no VQSegmentation"),
    (without("pos_emb"), {}, "'transformer.pos_emb' is missing"),
    (dict, dict(classes=3), "--option classes: 3, but the checkpoint's condition is a label map"),
    (dict, dict(heads=3), "heads: 3 does not divide"),
  ],
)
def test_refusals_are_one_line(state, change, options, message):
  with pytest.raises(UserError, match=message) as e:
    read(change(state), **options)
  assert "\n" not in str(e.value)
