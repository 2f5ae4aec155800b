"""A gated PixelCNN over Fashion-MNIST codes, given the class (arXiv 1606.05328), as VQ-VAE's prior was.

  python -m vqjax.main --config=configs/prior_fashion_mnist_pixelcnn.py --workdir=runs/prior_fashion_mnist_pixelcnn

Needs runs/vqvae_fashion_mnist. One of four priors with the same data, batch and steps: autoregressive, masked,
diffusion and pixelcnn. TFDS downloads the data (30 MB); `--data=FOLDER` reads the original IDX files. No paper has a
figure for this.
"""

from configs import common


def get_config():
  return dict(
      task="prior",
      tokenizer="runs/vqvae_fashion_mnist",
      data=common.FASHION_MNIST,
      ops=dict(size=28, channels=1, crop="none"),
      model=dict(name="pixelcnn", layers=8, width=64, kernel=5),
      scheme=dict(name="autoregressive"),
      condition=dict(labels=10),
      batch_size=32,
      total_steps=4_000,
      optim=dict(lr=1e-3, warmup=200, b2=0.95, weight_decay=0.01, clip=1.0),
      ema_decay=0.999,
      save_every=1_000,
      debug=common.debug(28, tokenizer="runs/vqvae_fashion_mnist_debug", model=dict(layers=2, width=16, kernel=3)),
  )
