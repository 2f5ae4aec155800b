"""CLIP ViT-B/32 as published (arXiv 2103.00020, tables 18 to 20) on your pictures with captions.

  python -m vqjax.main --config=configs/clip_vit_b32.py --data=DIR --workdir=runs/clip_vit_b32

The paper reports 63.2 % zero-shot on ImageNet after 32 epochs of 400 million pairs. Its weights:
python -m vqjax.convert --source=clip.
"""

from configs import common


def get_config():
  return dict(
    task="contrast",
    data=dict(name="folder", path="pictures"),
    ops=dict(size=224, crop="random_resized", min_area=0.9, channels=3),
    model=dict(
      image=dict(
        name="vit", patch=32, width=768, depth=12, heads=12, mlp_width=3072, dtype="bfloat16",
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
      text=dict(
        name="transformer", width=512, depth=12, heads=8, mlp_width=2048, dtype="bfloat16"),
      features=512),
    text=dict(size=49_408, length=77, lower=True),
    batch_size=32_768,
    total_steps=390_625,
    optim=dict(lr=5e-4, warmup=2_000, b2=0.98, eps=1e-6, weight_decay=0.2),
    save_every=5_000,
    debug=common.debug(16, model=common.TINY_CLIP, text=dict(size=300, length=16)),
  )
