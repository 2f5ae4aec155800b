"""VQ-Diffusion on ImageNet at 256 pixels (arXiv 2111.14822): 24 layers of 512, 100 steps of masking
and replacing.

  python -m vqjax.main --config=configs/vq_diffusion_imagenet.py \
      --workdir=runs/vq_diffusion_imagenet

Needs runs/vqgan_imagenet_f16_16384, trained or converted (the paper keeps the 974 of its codes that
are in use). The paper reports an FID of 11.89. As published: rates, decay, clipping, 100 epochs;
the batch of 512 is our reading of 32 per device. Data: ImageNet through TFDS, see
configs/common.py; `python -m vqjax.tokenize` computes the codes once.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqgan_imagenet_f16_16384",
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(name="transformer", layers=24, width=512, heads=16, dtype="bfloat16"),
    scheme=dict(name="diffusion", kernel="mask_and_replace", timesteps=100, mask_share=0.9),
    condition=dict(label=dict(classes=1_000)),
    batch_size=512,
    total_steps=250_000,
    optim=dict(
      lr=4.5e-4, warmup=5_000, schedule="constant", b1=0.9, b2=0.96, weight_decay=0.045, clip=0.5),
    ema_decay=0.9996,
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/vqgan_imagenet_f16_16384_debug", model=common.TINY_TRANSFORMER,
      scheme=dict(timesteps=8)),
  )
