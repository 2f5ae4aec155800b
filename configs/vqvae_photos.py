"""VQ-VAE (arXiv 1711.00937) on your own photographs: random crops of 64 x 64 pixels to 16 x 16
codes.

  python -m vqjax.main --config=configs/vqvae_photos.py --workdir=runs/vqvae_photos --data=FOLDER

Any folder of images with at least 64 pixels a side. Convolutions know no image size, so `python -m
vqjax.reconstruct` afterwards takes whole photographs. No paper has a figure for this. Measured on
178 photographs: 23.7 dB over 30 held-out ones, 89 % of the codebook in use.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="folder", path="data/photos"),
    ops=dict(size=64, channels=3, crop="random", flip=True),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="ema", codebook_size=512, dim=64)),
    batch_size=16,
    total_steps=600,
    optim=dict(lr=1e-3, warmup=100),
    save_every=300,
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
