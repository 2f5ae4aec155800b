"""A variational autoencoder (arXiv 1312.6114) on drawn shapes, 32 x 32 pixels to 8 x 8 x 4 Gaussian
latents.

  python -m vqjax.main --config=configs/vae_shapes.py --workdir=runs/vae_shapes

The KL is per position, the reconstruction loss per pixel and channel. The variational bound of a
Gaussian likelihood with variance s^2 is, in these units, a KL weight of 2 s^2 * 64 / (32 * 32 * 3):
here s = 0.15 on the scale from -1 to 1. The pictures are drawn on the fly; nothing is downloaded.
No paper has a figure for this data.
"""

from configs import common, vqvae_shapes


def get_config():
  return vqvae_shapes.get_config() | dict(
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="gaussian", dim=4, kl_weight=1e-3)),
    debug=common.debug(model=common.TINY_VQVAE),
  )
