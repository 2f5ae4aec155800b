"""A causal transformer over Fashion-MNIST codes in raster order, given the class (arXiv
2012.09841).

  python -m vqjax.main --config=configs/prior_fashion_mnist_autoregressive.py \
      --workdir=runs/prior_fashion_mnist_autoregressive

Needs runs/vqvae_fashion_mnist. One of five priors with the same data, batch and steps:
autoregressive, masked, diffusion, replace and pixelcnn. TFDS downloads the data (30 MB);
`--data=FOLDER` reads the original IDX files. No paper has a figure for this.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqvae_fashion_mnist",
    data=common.FASHION_MNIST,
    ops=dict(size=28, channels=1, crop="none"),
    model=dict(
      name="transformer", layers=4, width=128, heads=4, positions="rotary", norm="rmsnorm",
      mlp="swiglu", hidden=320,
      bias=False, qk_norm="rmsnorm"),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=10)),
    batch_size=16,
    total_steps=6_000,
    optim=dict(lr=3e-3, warmup=200, b2=0.95, weight_decay=0.01, clip=1.0),
    ema_decay=0.995,
    save_every=2_000,
    debug=common.debug(
      28, tokenizer="runs/vqvae_fashion_mnist_debug", model=common.TINY_TRANSFORMER),
  )
