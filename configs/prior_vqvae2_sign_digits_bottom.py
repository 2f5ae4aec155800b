"""Prior of a VQ-VAE-2's bottom level (arXiv 1906.00446): a transformer over 16 x 16 codes of
photographs of hands, given the digit and the 8 x 8 codes of the top level.

  python -m vqjax.main --config=configs/prior_vqvae2_sign_digits_bottom.py --data=FOLDER \
      --workdir=runs/prior_vqvae2_sign_digits_bottom
  python -m vqjax.sample --workdir=runs/prior_vqvae2_sign_digits_bottom --num=50 --label=all

Needs runs/vqvae2_sign_digits, and to sample runs/prior_vqvae2_sign_digits_top, which draws the top
level. No paper has a figure for this data.
"""

from configs import prior_vqvae2_sign_digits_top


def get_config():
  config = prior_vqvae2_sign_digits_top.get_config()
  config["debug"] |= dict(
    condition=dict(coarser=dict(prior="runs/prior_vqvae2_sign_digits_top_debug")))
  return config | dict(
    level=1,
    batch_size=8,
    total_steps=2_000,
    condition=dict(
      label=dict(classes=10), coarser=dict(prior="runs/prior_vqvae2_sign_digits_top")),
  )
