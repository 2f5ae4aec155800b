"""The simplest diffusion over Fashion-MNIST codes, which takes back a little random replacement
(after arXiv 2112.06749), given the class.

  python -m vqjax.main --config=configs/prior_fashion_mnist_replace.py \
      --workdir=runs/prior_fashion_mnist_replace

prior_fashion_mnist_diffusion with another scheme; draw with `--temperature`, see docs/README.md.
Needs runs/vqvae_fashion_mnist. No paper has a figure for this.
"""

from configs import prior_fashion_mnist_diffusion


def get_config():
  return prior_fashion_mnist_diffusion.get_config() | dict(scheme=dict(name="replace"))
