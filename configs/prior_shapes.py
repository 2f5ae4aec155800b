"""A gated PixelCNN (arXiv 1606.05328) over the codes of vqvae_shapes, given the shape: the
quickstart's second half.

  python -m vqjax.main --config=configs/prior_shapes.py --workdir=runs/prior_shapes
  python -m vqjax.sample --workdir=runs/prior_shapes --num=64 --label=all --output=samples.png

Needs runs/vqvae_shapes. The pictures are drawn on the fly. Made for a CPU: in the few minutes that
it has, convolutions learn outlines sooner than a transformer does. No paper has a figure for this
data.
"""

from configs import common, vqvae_shapes


def get_config():
  tokenizer = vqvae_shapes.get_config()
  return dict(
    task="prior",
    tokenizer="runs/vqvae_shapes",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(name="pixelcnn", layers=6, width=48, kernel=5),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=8)),
    batch_size=16,
    total_steps=6_000,
    optim=dict(lr=3e-3, warmup=200, b2=0.95, weight_decay=0.01, clip=1.0),
    log_every=100,
    save_every=3_000,
    debug=common.debug(
      tokenizer="runs/vqvae_shapes_debug", model=dict(layers=2, width=16, kernel=3)),
  )
