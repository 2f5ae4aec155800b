"""A Gaussian diffusion (arXiv 2006.11239) that predicts v, with a cosine schedule (arXiv
2102.09672) and min-SNR weights (arXiv 2303.09556), over a VAE's latents; else as
prior_fashion_mnist_flow.

  python -m vqjax.main --config=configs/prior_fashion_mnist_ddpm.py \
      --workdir=runs/prior_fashion_mnist_ddpm

Needs runs/vae_fashion_mnist. No paper has a figure for this; the docs compare the priors.
"""

from configs import prior_fashion_mnist_flow


def get_config():
  return prior_fashion_mnist_flow.get_config() | dict(
    scheme=dict(
      name="ddpm", prediction="v", schedule="cosine", weighting="min_snr", likelihood_steps=8))
