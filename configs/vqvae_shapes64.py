"""VQ-VAE (arXiv 1711.00937) on drawn shapes, 64 x 64 pixels to 8 x 8 codes: vqgan_shapes64 without
its adversary.

  python -m vqjax.main --config=configs/vqvae_shapes64.py --workdir=runs/vqvae_shapes64

The pictures are drawn on the fly; nothing is downloaded. Made for a CPU. Eight times fewer codes
than pixels a side leave the squared error no choice but to blur. No paper has a figure for this
data.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="shapes", size=64),
    ops=dict(size=64, channels=3),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=3,
      quantizer=dict(name="ema", codebook_size=512, dim=64)),
    batch_size=16,
    total_steps=600,
    optim=dict(lr=6e-4, warmup=100, b1=0.5),
    save_every=300,
    evaluators=("distortion", "ssim", "codes", "sharpness"),
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
