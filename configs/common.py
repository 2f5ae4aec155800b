"""What several configs share: data sets, and the overrides behind `:debug`."""

from __future__ import annotations

from typing import Any

# TFDS cannot download ImageNet by itself: tensorflow.org/datasets/catalog/imagenet2012 says which
# two files to fetch.
IMAGENET = dict(name="tfds", dataset="imagenet2012", eval_split="validation")
FASHION_MNIST = dict(name="tfds", dataset="fashion_mnist")

# Written by `python -m vqjax.convert --source=lpips`; see the README.
LPIPS = "weights/lpips.npz"

# The smallest models, for `debug`.
TINY_VQVAE = dict(hidden=16, residual_hidden=8, residual_blocks=1)
TINY_RESNET = dict(ch=8, ch_mult=(1, 1), num_res_blocks=1, z_channels=8, resolution=16)
TINY_STYLEGAN = dict(channels=8, max_channels=8)
TINY_CLIP = dict(
  image=dict(patch=8, width=16, depth=1, heads=2, mlp_width=32),
  text=dict(width=16, depth=1, heads=2, mlp_width=32), features=8)
TINY_DIT = dict(layers=2, width=32, heads=2, hidden=64)
TINY_TRANSFORMER = dict(layers=2, width=32, heads=2)


def debug(size: int = 32, **overrides: Any) -> dict[str, Any]:
  """Two steps on small drawn pictures, with nothing to download; `overrides` make the model small.

  A prior's debug run reads the debug run of its tokenizer, from runs/<tokenizer>_debug.
  """
  return dict(
    data=dict(name="shapes", size=size), ops=dict(size=size), batch_size=8, total_steps=2,
    log_every=1, save_every=2,
    eval_examples=8, preview=4, **overrides)
