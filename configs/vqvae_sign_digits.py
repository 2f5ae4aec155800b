"""VQ-VAE (arXiv 1711.00937) on photographs of hands, 64 x 64 colour pixels to 16 x 16 codes.

  python -m vqjax.main --config=configs/vqvae_sign_digits.py \
      --workdir=runs/vqvae_sign_digits --data=FOLDER

The data are the Sign Language Digits (arXiv 2011.08927,
github.com/ardamavi/Sign-Language-Digits-Dataset), resized to 64 pixels, a folder per class; any
folder of images does. No paper has a figure for this size. Measured on Sign Language Digits: 28.9
dB over 208 held-out images, 99 % of the codebook in use.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="folder", path="data/sign_digits64"),
    ops=dict(size=64, channels=3, flip=True),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="ema", codebook_size=512, dim=64)),
    batch_size=32,
    total_steps=800,
    optim=dict(lr=1e-3, warmup=100),
    save_every=400,
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
