"""A prior in integers over Fashion-MNIST codes, for files that every machine reads.

  python -m vqjax.main --config=configs/integer_prior_fashion_mnist.py:float \
      --workdir=runs/integer_prior_fashion_mnist_float
  python -m vqjax.main --config=configs/integer_prior_fashion_mnist.py \
      --workdir=runs/integer_prior_fashion_mnist
  python -m vqjax.compress --workdir=runs/integer_prior_fashion_mnist \
      --input=FOLDER --output=all.vqjc

The first run is the same network in floats (masked convolutions, arXiv 1601.06759), the second
goes on from its weights, trained as it runs: rounded (arXiv 1712.05877). Needs
runs/vqvae_fashion_mnist. Given no class, since who decodes has none. TFDS downloads the data (30
MB); `--data=FOLDER` reads the original IDX files or cached codes.
"""

from configs import common
from vqjax.errors import UserError, near_miss


def get_config(arg=None):
  config = dict(
    task="prior",
    tokenizer="runs/vqvae_fashion_mnist",
    data=common.FASHION_MNIST,
    ops=dict(size=28, channels=1, crop="none"),
    model=dict(name="integer", layers=4, width=64, kernel=7),
    scheme=dict(name="autoregressive"),
    batch_size=32,
    total_steps=6_000,
    optim=dict(lr=2e-3, warmup=200, b2=0.95, weight_decay=0.01, clip=1.0),
    ema_decay=0.995,
    save_every=2_000,
    debug=common.debug(
      28, tokenizer="runs/vqvae_fashion_mnist_debug", init_from=None,
      model=dict(layers=1, width=16, kernel=3)),
  )
  return refined(config, arg, "runs/integer_prior_fashion_mnist_float")


def refined(config, arg, parent):
  """The config of the network in floats, or the one that goes on from it in integers."""
  if arg not in (None, "", "float"):
    raise UserError(f"--config=FILE:{arg}: there is no such argument.{near_miss(arg, ['float'])}")
  if arg == "float":
    return config | dict(model=config["model"] | dict(arithmetic="float"))
  optim = config["optim"] | dict(lr=config["optim"]["lr"] / 4)
  return config | dict(init_from=parent, total_steps=config["total_steps"] // 3, optim=optim)
