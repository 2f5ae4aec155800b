"""Beside PyTorch at equal sizes: python -m vqjax.bench --suite=torch [--threads=1] [--repeats=7]
[--only=transformer,resnet,dac]

Needs torch (and for `dac` Hugging Face's transformers, which have DAC in PyTorch). The same
networks with as many parameters on either side: minGPT's transformer (6 layers of 256, 256 codes;
also drawn from, with keys and values kept), VQGAN's autoencoder (64 channels, 64 pixels, 8 x 8
latents) and DAC (0.37 seconds; a quarter of the published encoder's width, a sixth of the
decoder's). Calls take turns in one process, and the ratio is of each pair of turns, so that a
drifting machine hits both.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vqjax import bench, build, cli, sharding
from vqjax.errors import UserError
from vqjax.suites import decoding

PARTS = ("transformer", "resnet", "dac")
BATCH = {"transformer": 8, "resnet": 4, "dac": 2}


class Pair(NamedTuple):
  """A forward pass, a training step and more, ours and PyTorch's; parameters of both."""

  ours: dict[str, Callable[[], Any]]
  theirs: dict[str, Callable[[], Any]]
  parameters: tuple[int, int]


def pair(
  forward: Any, loss: Any, params: Any, net: Any, their_forward: Any, their_loss: Any
) -> Pair:
  """Both sides with Adam; `forward` and `loss` take params, PyTorch's take nothing."""
  import torch

  tx = optax.adam(1e-4)

  program = functools.partial(
    jax.jit, compiler_options=sharding.threaded(jax.devices())
  )  # as vqjax.train

  @program
  def step(params: Any, opt: Any) -> Any:
    updates, opt = tx.update(jax.grad(loss)(params), opt)
    return optax.apply_updates(params, updates), opt

  state = [params, jax.jit(tx.init)(params)]
  compiled = program(forward)

  def our_step() -> Any:
    state[:] = step(*state)
    return jax.block_until_ready(state)

  adam = torch.optim.Adam(net.parameters(), lr=1e-4)

  def their_step() -> None:
    adam.zero_grad(set_to_none=True)
    their_loss().backward()
    adam.step()

  def their_pass() -> None:
    with torch.no_grad():
      their_forward()

  return Pair(
    {"forward": lambda: jax.block_until_ready(compiled(params)), "step": our_step},
    {"forward": their_pass, "step": their_step},
    (sum(x.size for x in jax.tree.leaves(params)), sum(p.numel() for p in net.parameters())),
  )


def transformer(batch: int) -> Pair:
  """minGPT: 6 layers, 256 channels, 8 heads, 256 codes of 1,024."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  from vqjax.latents import Codes
  from vqjax.priors import transformer as ours

  layers, width, heads, size, length = 6, 256, 8, 1024, 256

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
      self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
      self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, cache=None, place=None):
      parts = self.qkv(self.before(x)).chunk(3, -1)
      q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in parts)
      if cache is not None:
        for kept, new in zip(cache, (k, v)):
          kept[:, :, place] = new[:, :, 0]
        k, v = (kept[:, :, : place + 1] for kept in cache)
      y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
      x = x + self.out(y.transpose(1, 2).flatten(2))
      return x + self.mlp(self.between(x))

  class GPT(nn.Module):
    def __init__(self):
      super().__init__()
      self.embed, self.start = nn.Embedding(size, width), nn.Parameter(torch.zeros(1, 1, width))
      self.places = nn.Parameter(torch.zeros(length, width))
      self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
      self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size, bias=False)

    def forward(self, ids):
      x = torch.cat([self.start.expand(len(ids), 1, -1), self.embed(ids[:, :-1])], 1)
      return self.head(self.norm(self.blocks(x + self.places)))

    @torch.no_grad()
    def sample(self):
      """One code after the other, with keys and values kept."""
      caches = torch.zeros(layers, 2, batch, heads, length, width // heads)
      x, drawn = self.start.expand(batch, 1, -1), []
      for place in range(length):
        x = x + self.places[place]
        for block, cache in zip(self.blocks, caches):
          x = block(x, cache, place)
        drawn.append(torch.multinomial(self.head(self.norm(x))[:, 0].softmax(-1), 1))
        x = self.embed(drawn[-1])
      return torch.cat(drawn, 1)

  ids = np.random.default_rng(0).integers(size, size=(batch, length))
  net, theirs = GPT(), torch.tensor(ids)
  latent = Codes((16, 16), size)
  model = ours.Model(latent, latent.vocabulary, layers=layers, width=width, heads=heads)
  mine = jnp.asarray(ids, jnp.int32)
  params = jax.jit(lambda k: model.init(k, mine, train=False))(jax.random.key(0))["params"]
  forward = lambda p: model.apply({"params": p}, mine, train=False)
  loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(forward(p), mine).mean()
  their_loss = lambda: F.cross_entropy(net(theirs).flatten(0, 1), theirs.flatten())
  made = pair(forward, loss, params, net, lambda: net(theirs), their_loss)
  draw = decoding.drawing(model)
  made.ours["sampling"] = lambda: draw({"params": params}, jax.random.key(0), mine)
  made.theirs["sampling"] = net.sample
  return made


def resnet(batch: int) -> Pair:
  """VQGAN's encoder and decoder: 64 channels, times 1, 1, 2 and 4, 64 pixels; l1."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  ch, mult, depth, z = 64, (1, 1, 2, 4), 1, 64

  class Res(nn.Module):
    def __init__(self, i, o):
      super().__init__()
      self.n1, self.c1 = nn.GroupNorm(32, i, eps=1e-6), nn.Conv2d(i, o, 3, padding=1)
      self.n2, self.c2 = nn.GroupNorm(32, o, eps=1e-6), nn.Conv2d(o, o, 3, padding=1)
      self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x):
      h = self.c2(F.silu(self.n2(self.c1(F.silu(self.n1(x))))))
      return self.skip(x) + h

  class Down(nn.Conv2d):
    def forward(self, x):
      return super().forward(F.pad(x, (0, 1, 0, 1)))

  def encoder():
    parts, i = [nn.Conv2d(3, ch, 3, padding=1)], ch
    for level, m in enumerate(mult):
      for _ in range(depth):
        parts.append(Res(i, ch * m))
        i = ch * m
      if level < len(mult) - 1:
        parts.append(Down(i, i, 3, stride=2))
    return parts + [Res(i, i), Res(i, i), nn.GroupNorm(32, i, eps=1e-6), nn.SiLU(),
                    nn.Conv2d(i, z, 3, padding=1), nn.Conv2d(z, z, 1)]  # fmt: skip

  def decoder():
    i = ch * mult[-1]
    parts = [nn.Conv2d(z, z, 1), nn.Conv2d(z, i, 3, padding=1), Res(i, i), Res(i, i)]
    for level in reversed(range(len(mult))):
      for _ in range(depth + 1):
        parts.append(Res(i, ch * mult[level]))
        i = ch * mult[level]
      if level:
        parts += [nn.Upsample(scale_factor=2), nn.Conv2d(i, i, 3, padding=1)]
    return [*parts, nn.GroupNorm(32, i, eps=1e-6), nn.SiLU(), nn.Conv2d(i, 3, 3, padding=1)]

  x = np.random.default_rng(0).normal(size=(batch, 64, 64, 3)).astype(np.float32)
  net = nn.Sequential(*encoder(), *decoder())
  theirs, mine = torch.tensor(x).permute(0, 3, 1, 2).contiguous(), jnp.asarray(x)
  model = build.build(
    "autoencoders",
    dict(name="resnet", ch=ch, ch_mult=mult, num_res_blocks=depth, attn_resolutions=(),
         resolution=64, mid_attention=False, z_channels=z,
         quantizer=dict(name="identity", dim=z)),
    "resnet",
  )  # fmt: skip
  params = jax.jit(lambda k: model.init(k, mine, train=False))(jax.random.key(0))["params"]
  forward = lambda p: model.apply({"params": p}, mine, train=False)[0]
  loss = lambda p: jnp.abs(forward(p) - mine).mean()
  return pair(
    forward, loss, params, net, lambda: net(theirs), lambda: (net(theirs) - theirs).abs().mean()
  )


def dac(batch: int) -> Pair:
  """DAC of 16 and 256 channels, four books of 1,024: 16,384 samples; l1 and the books' losses."""
  import torch
  from transformers import DacConfig, DacModel

  net = DacModel(DacConfig(
    encoder_hidden_size=16, decoder_hidden_size=256, n_codebooks=4, hidden_size=256,
    quantizer_dropout=0.0,
  ))  # fmt: skip
  x = 0.1 * np.random.default_rng(0).normal(size=(batch, 16_384, 1)).astype(np.float32)
  theirs, mine = torch.tensor(x).permute(0, 2, 1).contiguous(), jnp.asarray(x)
  book = dict(name="vq", codebook_size=1024, dim=8, normalize="search", revive=0.0,
              codebook_init="standard_normal")  # fmt: skip
  quantizer = dict(name="projected", outer=256, norm="weight", quantizer=book)
  model = build.build(
    "autoencoders",
    dict(name="seanet", width=16, decoder_width=256,
         quantizer=dict(name="residual", depth=4, quantizer=quantizer)),
    "seanet",
  )  # fmt: skip
  made = jax.jit(lambda k: model.init(k, mine, train=False))(jax.random.key(0))
  params, stats = made["params"], {k: v for k, v in made.items() if k != "params"}
  forward = lambda p: model.apply({"params": p, **stats}, mine, train=False)[0]

  def loss(p: Any) -> jax.Array:
    (recon, quantized), _ = model.apply(
      {"params": p, **stats}, mine, train=True, mutable=[*stats, "intermediates"],
      rngs={"codes": jax.random.key(0)},
    )  # fmt: skip
    return jnp.abs(recon - mine).mean() + quantized.loss

  def their_loss():
    net.train()
    out = net(theirs)
    size = min(out.audio_values.shape[-1], theirs.shape[-1])
    wave = out.audio_values.reshape(batch, 1, -1)[..., :size]
    return (wave - theirs[..., :size]).abs().mean() + out.loss.mean()

  def their_forward():
    net.eval()
    return net(theirs)

  return pair(forward, loss, params, net, their_forward, their_loss)


def ratios(made: Pair, repeats: int) -> list[list[str]]:
  """Rows (what, ours and theirs in ms, their ratio with its spread)."""
  rows = []
  for what in made.ours:
    seconds = bench.time_calls({"ours": made.ours[what], "theirs": made.theirs[what]}, repeats)
    each = sorted(a / b for a, b in zip(seconds["ours"], seconds["theirs"]))
    ms = (f"{1e3 * statistics.median(seconds[side]):.1f}" for side in ("ours", "theirs"))
    spread = f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"
    rows.append([what, *ms, spread])
  return rows


def main(argv: Sequence[str]) -> None:
  from vqjax import writers

  parser = cli.parser(__doc__)
  parser.add_argument("--threads", type=cli.count, help="cores for both sides; all by default")
  parser.add_argument("--repeats", type=cli.count, default=7)
  parser.add_argument("--only", default=",".join(PARTS))
  args = parser.parse_args(argv)
  _check(args)
  if args.threads:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  import torch

  torch.manual_seed(0)
  torch.set_num_threads(sharding.threads())
  rows = []
  for name in args.only.split(","):
    made = globals()[name](BATCH[name])
    ours, theirs = (f"{n / 1e6:.2f}" for n in made.parameters)
    rows += [[name, *row, ours, theirs] for row in ratios(made, args.repeats)]
  print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, jax {jax.__version__}")
  heads = ["network", "pass", "vqjax, ms", "PyTorch, ms", "ratio"]
  print(writers.table([*heads, "parameters, millions", "PyTorch's"], rows))


def _check(args: argparse.Namespace) -> None:
  if importlib.util.find_spec("torch") is None:
    raise UserError("torch: is not installed; pip install torch.")
  for name in args.only.split(","):
    if name not in PARTS:
      raise UserError(f"--only={args.only}: {name!r} is none of {', '.join(PARTS)}.")
  if "dac" in args.only.split(",") and importlib.util.find_spec("transformers") is None:
    others = ",".join(p for p in PARTS if p != "dac")
    raise UserError(f"--only=dac: needs pip install transformers; or give --only={others}.")
