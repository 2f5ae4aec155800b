"""ViT-VQGAN (arXiv 2110.04627): transformers over 8 x 8 patches, 256 x 256 pixels to 32 x 32 codes
of 8,192.

  python -m vqjax.main --config=configs/vit_vqgan.py --workdir=runs/vit_vqgan

The small model with the paper's weights, less its logit-Laplace term (0.1 beside the squared
error's 1), and with our k-means start and revival of dead codes. For its best model the paper
reports a reconstruction FID of 1.28 on ImageNet. Data and LPIPS: see configs/common.py.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="vit", dtype="bfloat16",
      quantizer=dict(name="vq", codebook_size=8_192, dim=32, normalize="l2")),
    disc=dict(name="stylegan", dtype="bfloat16"),
    loss=dict(
      reconstruction="l2", perceptual_weight=0.1, perceptual_weights=common.LPIPS,
      adversarial="non_saturating",
      adversarial_weight=0.1, adaptive="none"),
    batch_size=256,
    total_steps=500_000,
    optim=dict(lr=1e-4, end_lr=5e-5, warmup=25_000, b1=0.9, b2=0.99, weight_decay=1e-4),
    save_every=5_000,
    debug=common.debug(
      16,
      model=dict(width=32, depth=1, heads=2, mlp_width=64, quantizer=dict(codebook_size=64, dim=8)),
      disc=common.TINY_STYLEGAN, loss=dict(perceptual_weight=0.0)),
  )
