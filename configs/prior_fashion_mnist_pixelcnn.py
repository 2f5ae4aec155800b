"""A gated PixelCNN over Fashion-MNIST codes, given the class (arXiv 1606.05328), as VQ-VAE's prior
was.

  python -m vqjax.main --config=configs/prior_fashion_mnist_pixelcnn.py \
      --workdir=runs/prior_fashion_mnist_pixelcnn

Needs runs/vqvae_fashion_mnist. One of five priors with the same data, batch and steps:
autoregressive, masked, diffusion, replace and pixelcnn. TFDS downloads the data (30 MB);
`--data=FOLDER` reads the original IDX files. No paper has a figure for this.
"""

from configs import prior_fashion_mnist_autoregressive


def get_config():
  config = prior_fashion_mnist_autoregressive.get_config()
  config["debug"] |= dict(model=dict(layers=2, width=16, kernel=3))
  return config | dict(model=dict(name="pixelcnn", layers=8, width=64, kernel=5))
