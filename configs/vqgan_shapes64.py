"""A small VQGAN (arXiv 2012.09841) on drawn shapes, 64 x 64 pixels to 8 x 8 codes: vqvae_shapes64
with an adversary.

  python -m vqjax.main --config=configs/vqgan_shapes64.py --workdir=runs/vqgan_shapes64

Model, data and steps are those of vqvae_shapes64; a patch discriminator and feature matching in it
are added. Made for a CPU; nothing is downloaded. No paper has a figure for this data.
"""

from configs import vqvae_shapes64


def get_config():
  config = vqvae_shapes64.get_config()
  config["debug"] |= dict(disc=dict(channels=8), loss=dict(adversarial_start=1))
  return config | dict(
    disc=dict(name="patchgan", channels=16, n_layers=2, norm="group"),
    loss=dict(
      feature_weight=0.5, adversarial="hinge", adversarial_weight=0.3, adversarial_start=150),
  )
