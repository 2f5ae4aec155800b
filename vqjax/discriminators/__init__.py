"""Discriminators: real image or reconstruction? One file each, all with one contract.

A file defines `class Model(nn.Module)` with the field `dtype: str = "float32"`. Then

    disc(x, *, train) -> (logits, features)

- `x` is `[B, H, W, C]` in [-1, 1]; `logits` is float32, `[B, h, w, 1]` for a patch discriminator,
  `[B, 1]` otherwise.
- `features` is a tuple of activations, early first: feature matching compares them on real and
  reconstructed images.
- Batch norm keeps its running statistics in "batch_stats", mutable when `train` is true.
"""
