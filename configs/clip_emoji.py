"""A small CLIP (arXiv 2103.00020) on 3,516 emoji of 64 pixels with their names, to rank samples.

  python -m vqjax.main --config=configs/clip_emoji.py --data=EMOJI.npz --workdir=runs/clip_emoji

`captions.json` lies beside the array that --data names. Of the 273 held-out emoji, recall@1, 5 and
10 are 11, 26 and 35 % after 400 steps, 8 minutes on two cores that others shared; guessing finds
0.4 % at once. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
    task="contrast",
    data=dict(name="arrays", path="emoji/emoji64.npz"),
    ops=dict(size=64, channels=3),
    model=dict(
      image=dict(name="vit", patch=16, width=128, depth=4, heads=4, mlp_width=512),
      text=dict(name="transformer", width=128, depth=3, heads=4, mlp_width=512),
      features=64),
    text=dict(size=1_024, length=24, lower=True),
    batch_size=128,
    total_steps=400,
    optim=dict(lr=1e-3, warmup=50, b2=0.98, weight_decay=0.1, clip=1.0),
    save_every=100,
    best="recall@5",
    debug=common.debug(16, model=common.TINY_CLIP, text=dict(size=300, length=16), best="recall@1"),
  )
