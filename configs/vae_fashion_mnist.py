"""A variational autoencoder (arXiv 1312.6114) on Fashion-MNIST, 28 x 28 grey pixels to 7 x 7 x 4
Gaussian latents, for priors over floats.

  python -m vqjax.main --config=configs/vae_fashion_mnist.py --workdir=runs/vae_fashion_mnist

TFDS downloads the data (30 MB); `--data=FOLDER` reads the original IDX files instead, without
TensorFlow. The KL weighs as little as in latent diffusion (arXiv 2112.10752): latents stay near
unit variance, and the decoder loses hardly more than without. No paper has a figure for this size.
"""

from configs import common, vqvae_fashion_mnist


def get_config():
  return vqvae_fashion_mnist.get_config() | dict(
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="gaussian", dim=4, kl_weight=1e-4)),
    debug=common.debug(28, model=common.TINY_VQVAE),
  )
