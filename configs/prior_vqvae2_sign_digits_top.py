"""Prior of a VQ-VAE-2's top level (arXiv 1906.00446): a transformer over 8 x 8 codes of photographs
of hands, given the digit.

  python -m vqjax.main --config=configs/prior_vqvae2_sign_digits_top.py --data=FOLDER \
      --workdir=runs/prior_vqvae2_sign_digits_top

Needs runs/vqvae2_sign_digits, whose docstring says where the data are. Learns from pictures, half
of them mirrored, that it encodes itself: 1,854 are few. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqvae2_sign_digits",
    data=dict(name="folder", path="data/sign_digits64"),
    ops=dict(size=64, channels=3, flip=True),
    model=dict(
      name="transformer", layers=4, width=192, heads=6, positions="learned", norm="rmsnorm",
      mlp="swiglu", hidden=512, bias=False, qk_norm="rmsnorm", dropout=0.2),
    scheme=dict(name="autoregressive"),
    level=0,
    condition=dict(label=dict(classes=10)),
    batch_size=16,
    total_steps=3_000,
    optim=dict(lr=2e-3, warmup=200, b2=0.95, weight_decay=0.05, clip=1.0),
    ema_decay=0.995,
    save_every=500,
    debug=common.debug(
      tokenizer="runs/vqvae2_sign_digits_debug", model=common.TINY_TRANSFORMER),
  )
