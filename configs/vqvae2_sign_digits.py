"""VQ-VAE-2 (arXiv 1906.00446) on photographs of hands: 64 x 64 colour pixels to 8 x 8 codes above
16 x 16 codes, 512 each.

  python -m vqjax.main --config=configs/vqvae2_sign_digits.py \
      --workdir=runs/vqvae2_sign_digits --data=FOLDER

The data is that of vqvae_sign_digits. Made for a CPU. No paper has a figure for this data.
"""

from configs import vqvae_sign_digits


def get_config():
  return vqvae_sign_digits.get_config() | dict(
    model=dict(
      name="vqvae2", levels=2, downsamples=2, hidden=64, residual_hidden=32, residual_blocks=2,
      quantizer=dict(name="ema", codebook_size=512, dim=32)),
    total_steps=4_000,
    save_every=1_000,
  )
