"""A small CLIP (arXiv 2103.00020) on drawn shapes with their captions, to rank what dalle_shapes
draws.

  python -m vqjax.main --config=configs/clip_shapes.py --workdir=runs/clip_shapes
  python -m vqjax.sample --workdir=runs/dalle_shapes --num=8 --text="a large red circle" \
      --rank=runs/clip_shapes

The held-out captions name pairs of shape and colour that training has not. Made for two CPU cores;
nothing is downloaded. No paper has a figure for this data.
"""

from configs import common, vqvae_shapes_text


def get_config():
  tokenizer = vqvae_shapes_text.get_config()
  return dict(
    task="contrast",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(
      image=dict(name="vit", patch=4, width=128, depth=3, heads=4, mlp_width=512),
      text=dict(name="transformer", width=128, depth=2, heads=4, mlp_width=512),
      features=64),
    text=dict(size=512, length=16, lower=True),
    batch_size=128,
    total_steps=1_500,
    optim=dict(lr=1e-3, warmup=100, b2=0.98, weight_decay=0.1, clip=1.0),
    save_every=250,
    debug=common.debug(16, model=common.TINY_CLIP, text=dict(size=300, length=16), best="recall@1"),
  )
