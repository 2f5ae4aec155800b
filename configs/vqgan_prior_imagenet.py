"""VQGAN's transformer for class-conditional ImageNet (arXiv 2012.09841): 48 layers of 1,536, 1.4
billion weights.

  python -m vqjax.main --config=configs/vqgan_prior_imagenet.py --workdir=runs/vqgan_prior_imagenet

Needs runs/vqgan_imagenet_f16_16384, trained or converted. The paper reports an FID of 15.78 at 256
pixels, 5.20 when a classifier rejects 95 % of the samples. The learning rate is published per
image; the batch is our choice. The state is split over the devices (fsdp). Data: ImageNet through
TFDS, see configs/common.py; `python -m vqjax.tokenize` computes the codes once.
"""

from configs import common

BATCH = 64


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqgan_imagenet_f16_16384",
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="transformer", layers=48, width=1_536, heads=24, remat="block", dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=1_000)),
    mesh=dict(data=1, fsdp=-1),
    batch_size=BATCH,
    total_steps=1_000_000,
    optim=dict(lr=4.5e-6 * BATCH, schedule="constant", b1=0.9, b2=0.95, weight_decay=0.01),
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/vqgan_imagenet_f16_16384_debug", model=common.TINY_TRANSFORMER),
  )
