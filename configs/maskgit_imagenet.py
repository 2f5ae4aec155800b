"""MaskGIT on ImageNet at 256 pixels (arXiv 2202.04200): 24 bidirectional layers of 768 over 16 x 16
codes.

  python -m vqjax.main --config=configs/maskgit_imagenet.py --workdir=runs/maskgit_imagenet
  python -m vqjax.sample --workdir=runs/maskgit_imagenet --num=64 --steps=8 --output=samples.png

Needs runs/maskgit_tokenizer. The paper reports an FID of 6.18 with 8 steps, after 300 epochs. The
class may be left out for guidance, which the paper does not do. Data: ImageNet through TFDS, see
configs/common.py; `python -m vqjax.tokenize` computes the codes once.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/maskgit_tokenizer",
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.8, flip=True),
    model=dict(
      name="transformer", layers=24, width=768, heads=8, hidden=3_072, dropout=0.1,
      dtype="bfloat16"),
    scheme=dict(name="masked", schedule="cosine", label_smoothing=0.1),
    condition=dict(label=dict(classes=1_000)),
    batch_size=256,
    total_steps=1_500_000,
    optim=dict(lr=1e-4, warmup=5_000, b1=0.9, b2=0.96, weight_decay=0.045),
    ema_decay=0.9999,
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/maskgit_tokenizer_debug",
      model=common.TINY_TRANSFORMER | dict(hidden=64)),
  )
