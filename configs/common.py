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


# As small as a codec gets, and two steps on drawn sounds.
TINY_SEANET = dict(
  width=4, strides=(4, 8), decoder_width=16, dilations=(1,), residual_size=3,
  quantizer=dict(depth=2, quantizer=dict(outer=16, quantizer=dict(codebook_size=16, dim=4))))
TINY_WAVES = dict(periods=(2,), windows=(64,), period_channels=2, channels=4)


def debug_sound(rate: int = 4_000, length: int = 512, **overrides: Any) -> dict[str, Any]:
  """`debug` on drawn sounds."""
  return debug(**overrides) | dict(
    data=dict(name="tones", rate=rate, seconds=length / rate),
    ops=dict(name="audio", rate=rate, length=length, channels=1))


def debug_video(frames: int = 4, size: int = 16, **overrides: Any) -> dict[str, Any]:
  """As `debug`, on small drawn videos."""
  return debug(**overrides) | dict(
    data=dict(name="moving_shapes", size=size, frames=frames),
    ops=dict(name="video", frames=frames, size=size))
