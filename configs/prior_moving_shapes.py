"""A transformer with rotary positions on three axes over the codes of vqvae_moving_shapes: given
two frames it continues six.

  python -m vqjax.main --config=configs/prior_moving_shapes.py --workdir=runs/prior_moving_shapes
  python -m vqjax.sample --workdir=runs/prior_moving_shapes --num=8 --keep=0.25 \
      --output=predicted.gif
  python -m vqjax.bench --suite=moving --workdir=runs/prior_moving_shapes

Needs runs/vqvae_moving_shapes. The videos are drawn on the fly. Made for a CPU. No paper has a
figure for this data.
"""

from configs import common, vqvae_moving_shapes


def get_config():
  tokenizer = vqvae_moving_shapes.get_config()
  return dict(
    task="prior",
    tokenizer="runs/vqvae_moving_shapes",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(name="transformer", layers=3, width=72, heads=4, positions="rotary"),
    scheme=dict(name="autoregressive"),
    batch_size=16,
    total_steps=1_000,
    optim=dict(lr=3e-3, warmup=50, b2=0.95, weight_decay=0.01, clip=1.0),
    log_every=25,
    save_every=250,
    eval_examples=64,
    debug=common.debug_video(
      tokenizer="runs/vqvae_moving_shapes_debug", model=dict(layers=2, width=24, heads=2)),
  )
