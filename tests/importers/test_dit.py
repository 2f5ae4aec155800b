"""DiT against the values of its own class and sampler, both ways, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqjax
from vqjax import convert
from vqjax.errors import UserError
from vqjax.importers import _torch_file, complete, dit
from vqjax.schemes import Guidance

pytest.importorskip("torch")

NULL = 10


@pytest.fixture(scope="module")
def run(golden, tmp_path_factory):
  """(the loaded prior, its workdir, the golden values)."""
  folder = tmp_path_factory.mktemp("dit")
  convert.main(
    [
      "--source=autoencoder_kl",
      f"--checkpoint={golden / 'autoencoder_kl'}",
      f"--workdir={folder / 'kl'}",
    ]
  )
  convert.main(
    [
      "--source=dit",
      f"--checkpoint={golden / 'dit.pt'}",
      f"--workdir={folder / 'prior'}",
      *("--option", "heads=4", "--option", f"tokenizer={folder / 'kl'}"),
    ]
  )
  return vqjax.load(folder / "prior"), folder, dict(np.load(golden / "dit.npz"))


def flat(x):
  return jnp.asarray(x).reshape(len(x), -1, x.shape[-1])


def prefix(labels):
  return jnp.where(labels == NULL, -1, labels).astype(jnp.int32)[:, None]


def test_predictions(run):
  model, _, expected = run
  network = model.modules.network(model.weights.params, prefix(expected["y"]))
  out = jax.jit(network.full)(flat(expected["x"]), jnp.asarray(expected["t"]) / 1000)
  np.testing.assert_allclose(out, flat(expected["out"]), atol=1e-4)


def test_guidance_moves_three_channels_as_published(run):
  model, _, expected = run
  guided, x, times = expected["guided"], expected["x"], expected["t"]
  # Their batch is that of the condition, then of the null label, over the same latents.
  rows = [
    (i, j, label) for i in range(3) for j in range(3) for label in range(NULL)
  ]  # which inputs they took is not said: the ones that reproduce the plain channels
  plain = model.modules.network(model.weights.params, prefix(np.array([r[2] for r in rows])))
  found = jax.jit(plain.full)(
    flat(x)[jnp.array([r[0] for r in rows])],
    jnp.asarray(times)[jnp.array([r[1] for r in rows])] / 1e3,
  )
  matched = [
    rows[
      int(
        np.abs(np.asarray(found)[..., 3:] - np.asarray(flat(g[None]))[..., 3:]).max((1, 2)).argmin()
      )
    ]
    for g in guided[:2]
  ]
  at = np.array(matched)
  network = model.modules.network(model.weights.params, prefix(at[:, 2]), Guidance(scale=3.0))
  out = jax.jit(network.full)(flat(x[at[:, 0]]), jnp.asarray(times[at[:, 1]]) / 1000)
  np.testing.assert_allclose(out, flat(guided[:2]), atol=1e-4)


def test_ddim_steps(run):
  model, _, expected = run
  scheme, noise = model.modules.scheme, flat(expected["ddim_start"])
  network = model.modules.network(model.weights.params, prefix(expected["ddim_labels"]))
  # The published start takes the place of the noise that the sampler would draw.
  from vqjax.schemes import _sampling

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_sampling, "normal", lambda keys, shape: noise)
    known = jnp.zeros(noise.shape[:2], bool)
    run = lambda key, known: scheme.sample(
      key, network, jnp.zeros_like(noise), known, steps=6, solver="euler", trajectory=True
    )
    out, path = jax.jit(run)(jax.random.key(0), known)
  theirs = expected["ddim"].reshape(path.shape)
  np.testing.assert_allclose(path, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
  np.testing.assert_allclose(out, theirs[-1], rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_back_again(run, golden, tmp_path):
  _, folder, _ = run
  convert.main(
    ["--target=dit", f"--workdir={folder / 'prior'}", f"--checkpoint={tmp_path / 'back.pt'}"]
  )
  back, state = _torch_file.load(tmp_path / "back.pt"), _torch_file.load(golden / "dit.pt")
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_allclose(back[name], state[name], atol=1e-6, err_msg=name)


def test_what_does_not_fit_is_named(run, golden):
  _, folder, _ = run
  state = _torch_file.load(golden / "dit.pt")
  options = complete({"tokenizer": str(folder / "kl"), "heads": 4}, dit.OPTIONS)
  read = lambda state, **other: dit.read([state], options | other, None)
  with pytest.raises(UserError, match="--option heads: .* 32 is the width of no published DiT"):
    read(state, heads=0)
  with pytest.raises(UserError, match="holds no run; give the workdir of the autoencoder"):
    read(state, tokenizer=str(folder / "none"))
  with pytest.raises(UserError, match="latents of 8 x 8 x 4, the checkpoint is over 4 x 4 x 4"):
    read(state | {"pos_embed": state["pos_embed"][:, :4]})
  with pytest.raises(UserError, match="'pos_embed' are not DiT's sines"):
    read(state | {"pos_embed": -state["pos_embed"]})
  with pytest.raises(UserError, match="missing: 'blocks.1.mlp.fc1.bias'"):
    read({k: v for k, v in state.items() if k != "blocks.1.mlp.fc1.bias"})
  other = dict(model=dict(name="dit", positions="rotary", patch=2), condition={}, tokenizer="")
  with pytest.raises(UserError, match="DiT's own class is"):
    dit.write(other, {}, {})
