"""DALL·E (arXiv 2102.12092) made small, on drawn shapes: "a large red circle above a medium blue
square".

  python -m vqjax.main --config=configs/dalle_shapes.py --workdir=runs/dalle_shapes
  python -m vqjax.sample --workdir=runs/dalle_shapes --num=8 \
      --text="a large red circle above a medium blue square"

Needs runs/vqvae_shapes_text. Captions are of 30 words, each a token, and of 12 tokens at most.
Made for two CPU cores; nothing is downloaded. No paper has a figure for this data.
"""

from configs import common, vqvae_shapes_text


def get_config():
  tokenizer = vqvae_shapes_text.get_config()
  return dict(
    task="prior",
    tokenizer="runs/vqvae_shapes_text",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(
      name="transformer", layers=4, width=192, heads=4, positions="row_column",
      attention="dalle", window=5),
    scheme=dict(name="autoregressive"),
    condition=dict(text=dict(size=512, length=14, lower=True), drop=0.1),
    batch_size=32,
    total_steps=6_000,
    optim=dict(lr=1e-3, warmup=200, b2=0.96, weight_decay=4.5e-2, clip=4.0),
    ema_decay=0.99,
    log_every=100,
    save_every=500,
    debug=common.debug(
      tokenizer="runs/vqvae_shapes_text_debug", model=common.TINY_TRANSFORMER,
      condition=dict(text=dict(size=300, length=16))),
  )
