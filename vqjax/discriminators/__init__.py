"""Discriminators: real or reconstructed? One file each, all with one contract.

A file defines `class Model(nn.Module)` with the fields `axes: int = fields.program(2)` (number of
grid axes: 1 sound, 2 images and maps, 3 video) and `dtype: str = "float32"`. Then

    disc(x, *, train) -> (logits, features)

- `x` is `[B, ..., C]` in [-1, 1]; `logits` is float32, `[B, ..., 1]` for a patch discriminator,
  `[B, 1]` otherwise; several judges in one return a tuple of such, and each counts alike. A file
  that is made for some numbers of axes only raises UserError for the others (`checks.axes`).
- `features` is a tuple of activations, early first: feature matching compares them on real and
  reconstructed images.
- Batch norm keeps its running statistics in "batch_stats", mutable when `train` is true.
"""
