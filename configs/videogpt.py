"""VideoGPT (arXiv 2104.10157): next-code prediction over 4 x 32 x 32 codes of UCF-101, given the
class.

  python -m vqjax.main --config=configs/videogpt.py --workdir=runs/videogpt \
      --config.tokenizer=runs/videogpt_tokenizer --data=PATH/TO/UCF101
  python -m vqjax.sample --workdir=runs/videogpt --num=4 --label=3 --output=samples.gif
  python -m vqjax.sample --workdir=runs/videogpt --num=4 --video=clip.mp4 --keep=0.25

Needs runs/videogpt_tokenizer. Width, heads and depth are the published code's; positions are
rotary on the three axes instead of learned for each. The paper reports an inception score of 24.69
on UCF-101.
"""

from configs import common, videogpt_tokenizer


def get_config():
  tokenizer = videogpt_tokenizer.get_config()
  return dict(
    task="prior",
    tokenizer="runs/videogpt_tokenizer",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(
      name="transformer", layers=8, width=576, heads=4, positions="rotary", dropout=0.2,
      remat="block", dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=101)),
    batch_size=32,
    total_steps=200_000,
    optim=dict(lr=3e-4, b2=0.95, weight_decay=0.01, clip=1.0),
    save_every=5_000,
    debug=common.debug_video(
      tokenizer="runs/videogpt_tokenizer_debug",
      model=dict(layers=2, width=32, heads=2, positions="learned")),
  )
