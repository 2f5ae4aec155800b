"""A prior in integers over the codes of photographs of hands, for files that every machine reads.

  python -m vqjax.main --config=configs/integer_prior_sign_digits.py:float --data=FOLDER \
      --workdir=runs/integer_prior_sign_digits_float
  python -m vqjax.main --config=configs/integer_prior_sign_digits.py --data=FOLDER \
      --workdir=runs/integer_prior_sign_digits

As configs/integer_prior_fashion_mnist.py (masked convolutions, arXiv 1601.06759), over 16 x 16
codes. Needs runs/vqvae_sign_digits, whose docstring says where the data are.
"""

from configs import common, integer_prior_fashion_mnist


def get_config(arg=None):
  config = dict(
    task="prior",
    tokenizer="runs/vqvae_sign_digits",
    data=dict(name="folder", path="data/sign_digits64"),
    ops=dict(size=64, channels=3),
    model=dict(name="integer", layers=6, width=48, kernel=5, dropout=0.1),
    scheme=dict(name="autoregressive"),
    batch_size=16,
    total_steps=3_000,
    optim=dict(lr=2e-3, warmup=200, b2=0.95, weight_decay=0.05, clip=1.0),
    ema_decay=0.995,
    save_every=500,
    debug=common.debug(
      tokenizer="runs/vqvae_sign_digits_debug", init_from=None,
      model=dict(layers=1, width=16, kernel=3)),
  )
  return integer_prior_fashion_mnist.refined(
    config, arg, "runs/integer_prior_sign_digits_float")
