"""MAGVIT-2's masked language model (arXiv 2310.05737) over 5 x 16 x 16 codes, each predicted as two
groups of nine bits, given the class.

  python -m vqjax.main --config=configs/magvit2.py --workdir=runs/magvit2 \
      --config.tokenizer=runs/magvit2_tokenizer --data=PATH/TO/UCF101
  python -m vqjax.sample --workdir=runs/magvit2 --num=4 --label=3 --steps=12 --output=samples.gif

Needs runs/magvit2_tokenizer. The paper reports an FVD of 58 on UCF-101 with 24 steps.
"""

from configs import common, magvit2_tokenizer


def get_config():
  tokenizer = magvit2_tokenizer.get_config()
  return dict(
    task="prior",
    tokenizer="runs/magvit2_tokenizer",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    order=dict(name="parallel"),
    model=dict(
      name="transformer", layers=24, width=1_024, heads=16, hidden=4_096, dropout=0.1,
      remat="block", dtype="bfloat16"),
    scheme=dict(name="masked", schedule="cosine", label_smoothing=0.1),
    condition=dict(label=dict(classes=101)),
    batch_size=256,
    total_steps=300_000,
    optim=dict(lr=1e-4, warmup=10_000, b1=0.9, b2=0.96, weight_decay=0.045),
    ema_decay=0.9999,
    save_every=5_000,
    debug=common.debug_video(
      frames=9,
      tokenizer="runs/magvit2_tokenizer_debug", model=common.TINY_TRANSFORMER | dict(hidden=64)),
  )
