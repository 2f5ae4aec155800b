"""DALL·E's transformer (arXiv 2102.12092): captions and the 32 x 32 codes of its dVAE as one
stream, 12 billion weights.

  python -m vqjax.main --config=configs/dalle.py --workdir=runs/dalle
  python -m vqjax.main --config=configs/dalle.py:v5e16 --workdir=runs/dalle    1.6 billion, v5e-16
  python -m vqjax.main --config=configs/dalle.py:h100 --workdir=runs/dalle    1.2 billion, one H100

Needs runs/dvae_dalle, trained or converted. As published: 64 layers of 62 heads of 64, row, column
and convolutional masks, 256 tokens of 16,384 lower-cased, weights 1/8 and 7/8, 430,000 updates on
1,024 pairs. Its schedule halved the learning rate five times where the loss stood still, here it
falls by half a cosine to the same end; BPE dropout is left out. No flips: captions tell left from
right. The paper reports FIDs of about 27 on MS-COCO for the best of 512 samples, after 250 million
pairs that are not public. Here they are MS-COCO's through TFDS, of five captions a picture one each
time; any folder with captions does. `python -m vqjax.tokenize` computes the codes once. A width of
3,968 divides by 64 and not by 256: 256 chips of v5e take --config.mesh.data=-1
--config.mesh.fsdp=64. The smaller two sizes are ours.
"""

from configs import common
from vqjax.errors import UserError, near_miss

PAPER = dict(layers=64, width=62 * 64, heads=62)
SIZES = {
    "paper": dict(model=PAPER, batch_size=1_024, total_steps=430_000),
    # `accumulate`: updates see 256 pairs here and below.
    "v5e16": dict(
      model=dict(layers=32, width=2_048, heads=32), batch_size=128, accumulate=2,
      total_steps=600_000),
    "h100": dict(
      model=dict(layers=24, width=2_048, heads=32), batch_size=32, accumulate=8,
      total_steps=2_400_000),
}


def get_config(size=None):
  if (size := size or "paper") not in SIZES:
    raise UserError(f"--config=configs/dalle.py:{size}: no such size.{near_miss(size, SIZES)}")
  sized = SIZES[size]
  model = dict(
    name="transformer", **sized["model"], positions="row_column", attention="dalle",
    remat="block", dtype="bfloat16")
  return sized | dict(
    task="prior",
    tokenizer="runs/dvae_dalle",
    data=dict(name="tfds", dataset="coco_captions", text="captions/text", eval_split="val"),
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.79),
    model=model,
    scheme=dict(name="autoregressive"),
    condition=dict(text=dict(size=16_384, length=256, lower=True, predicted=1 / 8), drop=0.1),
    mesh=dict(data=-1) if size == "h100" else dict(data=1, fsdp=-1),
    optim=dict(
      lr=4.5e-4, warmup=5_000, end_lr=4.5e-4 / 32, b1=0.9, b2=0.96, eps=1e-8,
      weight_decay=4.5e-2, clip=4.0),
    ema_decay=0.999,
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/dvae_dalle_debug", accumulate=1,
      model=common.TINY_TRANSFORMER | dict(window=3),
      condition=dict(text=dict(size=300, length=16))),
  )
