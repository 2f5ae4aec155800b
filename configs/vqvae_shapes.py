"""VQ-VAE (arXiv 1711.00937) on drawn shapes, 32 x 32 pixels to 8 x 8 codes: the quickstart's
tokenizer.

  python -m vqjax.main --config=configs/vqvae_shapes.py --workdir=runs/vqvae_shapes

The pictures are drawn on the fly, each a large object on a plain ground; nothing is downloaded.
Made for a CPU. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
    data=dict(
      name="shapes", size=32, num_train=16_000, max_objects=1, sizes=("large",),
      grounds=("plain",)),
    ops=dict(size=32, channels=3),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="ema", codebook_size=256, dim=32)),
    batch_size=32,
    total_steps=1_000,
    optim=dict(lr=2e-3, warmup=50, b2=0.95),
    save_every=500,
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
