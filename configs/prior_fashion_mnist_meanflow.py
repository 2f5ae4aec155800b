"""Mean flows (arXiv 2505.13447) over a VAE's latents: samples in one step of the
network; else as prior_fashion_mnist_flow.

  python -m vqjax.main --config=configs/prior_fashion_mnist_meanflow.py \
      --workdir=runs/prior_fashion_mnist_meanflow

Needs runs/vae_fashion_mnist. No paper has a figure for this data.
"""

from configs import prior_fashion_mnist_flow


def get_config():
  return prior_fashion_mnist_flow.get_config() | dict(
    scheme=dict(name="meanflow", likelihood_steps=8))
