"""A transformer over the codes of vqvae_shapes, given the main object's shape: the quickstart's second half.

  python -m vqjax.main --config=configs/prior_shapes.py --workdir=runs/prior_shapes
  python -m vqjax.sample --workdir=runs/prior_shapes --num=64 --output=samples.png

Needs runs/vqvae_shapes. The pictures are drawn on the fly. Made for a CPU. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
      task="prior",
      tokenizer="runs/vqvae_shapes",
      data=dict(name="shapes", size=32, num_train=16_000, max_objects=1),
      ops=dict(size=32, channels=3),
      model=dict(name="transformer", layers=4, width=128, heads=4),
      scheme=dict(name="autoregressive"),
      condition=dict(labels=8),
      batch_size=32,
      total_steps=1_200,
      optim=dict(lr=1e-3, warmup=100, b2=0.95, weight_decay=0.01, clip=1.0),
      save_every=600,
      debug=common.debug(tokenizer="runs/vqvae_shapes_debug", model=common.TINY_TRANSFORMER),
  )
