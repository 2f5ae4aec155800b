"""DALL·E (arXiv 2102.12092) made small, on emoji of 64 pixels with their names.

  python -m vqjax.main --config=configs/dalle_emoji.py --workdir=runs/dalle_emoji \
      --data=PATH/TO/emoji64.npz
  python -m vqjax.sample --workdir=runs/dalle_emoji --num=4 --text="a red heart"

Needs runs/vqvae_emoji, or with --config.tokenizer runs/dvae_emoji. 3,243 pictures are few: nats
over the held-out ones rise again after some epochs, and `best` keeps the checkpoint from before:
`python -m vqjax.export --workdir=runs/dalle_emoji --step=1000 --output=emoji.safetensors`.
Measured: 3.96 nats a code held out at step 1,000. Made for two CPU cores. No paper has a figure
for this data.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqvae_emoji",
    data=dict(name="arrays", path="data/emoji/emoji64.npz"),
    ops=dict(size=64, channels=3),
    model=dict(
      name="transformer", layers=4, width=192, heads=4, positions="row_column",
      attention="dalle", window=5, dropout=0.2),
    scheme=dict(name="autoregressive"),
    condition=dict(text=dict(size=1_024, length=20, lower=True), drop=0.1),
    batch_size=32,
    total_steps=1_500,
    optim=dict(lr=1e-3, warmup=100, b2=0.96, weight_decay=4.5e-2, clip=4.0),
    ema_decay=0.99,
    log_every=50,
    save_every=250,
    best="-nats_per_code",
    debug=common.debug(
      16, tokenizer="runs/vqvae_emoji_debug", model=common.TINY_TRANSFORMER,
      condition=dict(text=dict(size=300, length=16))),
  )
