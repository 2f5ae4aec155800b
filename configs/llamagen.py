"""LlamaGen (arXiv 2406.06525): class-conditional ImageNet by next-code prediction, in five sizes up
to 3 billion.

  python -m vqjax.main --config=configs/llamagen.py:xl \
      --workdir=runs/llamagen_xl    sizes b (default), l, xl, xxl, 3b

Needs runs/llamagen_tokenizer. The paper reports FIDs of 5.46 (B) and 3.80 (L) on 16 x 16 codes as
here, and of 2.62 (XL), 2.34 (XXL) and 2.18 (3B) on 24 x 24 codes (train tokenizer and prior with
ops.size=384), with guidance, after 300 epochs. From l on the state is split over the devices
(fsdp). Data: ImageNet through TFDS, see configs/common.py; `python -m vqjax.tokenize` computes
codes once.
"""

from configs import common
from vqjax.errors import UserError, near_miss

SIZES = {
    "b": dict(layers=12, width=768, heads=12),
    "l": dict(layers=24, width=1_024, heads=16),
    "xl": dict(layers=36, width=1_280, heads=20),
    "xxl": dict(layers=48, width=1_536, heads=24),
    "3b": dict(layers=24, width=3_200, heads=32),
}


def get_config(size=None):
  if (size := size or "b") not in SIZES:
    raise UserError(f"--config=configs/llamagen.py:{size}: no such size.{near_miss(size, SIZES)}")
  return dict(
    task="prior",
    tokenizer="runs/llamagen_tokenizer",
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.64, flip=True),
    model=dict(
      name="transformer", **SIZES[size], positions="rotary", norm="rmsnorm", mlp="swiglu",
      bias=False, dropout=0.1,
      remat="block", dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=1_000), drop=0.1),
    mesh=dict(data=-1) if size == "b" else dict(data=1, fsdp=-1),
    batch_size=256,
    total_steps=1_500_000,
    optim=dict(lr=1e-4, schedule="constant", b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0),
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/llamagen_tokenizer_debug",
      model=common.TINY_TRANSFORMER | dict(hidden=64)),
  )
