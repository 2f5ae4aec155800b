"""A rectified flow (arXiv 2209.03003) over the 7 x 7 x 4 latents of vae_fashion_mnist, given the
class.

  python -m vqjax.main --config=configs/prior_fashion_mnist_flow.py \
      --workdir=runs/prior_fashion_mnist_flow

Needs runs/vae_fashion_mnist; `python -m vqjax.tokenize` writes its latents once. The network is a
small DiT (arXiv 2212.09748) as deep and wide as the transformers of the priors over codes. Over the
64 floats before the quantizer of vqvae_fashion_mnist (config.latents.kind=continuous) three minutes
teach it nothing. No paper has a figure for this; the docs compare the priors.
"""

from configs import common, prior_fashion_mnist_autoregressive


def get_config():
  return prior_fashion_mnist_autoregressive.get_config() | dict(
    tokenizer="runs/vae_fashion_mnist",
    model=dict(
      name="dit", layers=4, width=128, heads=4, patch=1, mlp="swiglu", hidden=320,
      qk_norm="rmsnorm"),
    scheme=dict(name="flow", likelihood_steps=8),
    batch_size=16,
    eval_examples=256,
    optim=dict(lr=2e-3, warmup=100, b2=0.99, clip=1.0),
    debug=common.debug(
      28, tokenizer="runs/vae_fashion_mnist_debug", model=common.TINY_DIT,
      scheme=dict(likelihood_steps=2)),
  )
