"""Discrete diffusion over Fashion-MNIST codes, given the class (arXiv 2107.03006, 2111.14822).

  python -m vqjax.main --config=configs/prior_fashion_mnist_diffusion.py \
      --workdir=runs/prior_fashion_mnist_diffusion

Needs runs/vqvae_fashion_mnist. One of five priors with the same data, batch and steps:
autoregressive, masked, diffusion, replace and pixelcnn. TFDS downloads the data (30 MB);
`--data=FOLDER` reads the original IDX files. No paper has a figure for this.
"""

from configs import prior_fashion_mnist_autoregressive


def get_config():
  config = prior_fashion_mnist_autoregressive.get_config()
  # Rotations tell places apart only by what stands there, and at the start of sampling that is the
  # same everywhere.
  config["model"] |= dict(positions="learned")
  return config | dict(scheme=dict(name="diffusion", kernel="mask_and_replace", timesteps=50))
