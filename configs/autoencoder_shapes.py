"""A plain autoencoder on drawn shapes, 32 x 32 pixels to 8 x 8 x 4 numbers: what the codes of
vqvae_shapes give up.

  python -m vqjax.main --config=configs/autoencoder_shapes.py --workdir=runs/autoencoder_shapes

The pictures are drawn on the fly; nothing is downloaded. No paper has a figure for this data.
"""

from configs import common, vqvae_shapes


def get_config():
  return vqvae_shapes.get_config() | dict(
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="identity", dim=4)),
    debug=common.debug(model=common.TINY_VQVAE),
  )
