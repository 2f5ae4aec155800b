"""Lookup-free quantization on ImageNet at 256 pixels (MAGVIT-v2, arXiv 2310.05737): f = 16, 2^18
codes.

  python -m vqjax.main --config=configs/lfq_imagenet.py --workdir=runs/lfq_imagenet

MAGVIT-v2 prints no reconstruction figure for still pictures; its reimplementation Open-MAGVIT2
(arXiv 2409.04410) reports a reconstruction FID of 1.17 at this size, with all codes in use. Weights
that the paper leaves open are those of MaskGIT's tokenizer; LeCAM takes the place of R1. Data and
LPIPS: see configs/common.py.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.8, flip=True),
    model=dict(
      name="resnet", num_res_blocks=4, attn_resolutions=(), mid_attention=False, dtype="bfloat16",
      quantizer=dict(
        name="lfq", dim=18, entropy_weight=0.1, commitment_weight=0.25, temperature=0.01)),
    disc=dict(name="stylegan", dtype="bfloat16"),
    loss=dict(
      reconstruction="l2", perceptual_weight=0.1, perceptual_weights=common.LPIPS,
      adversarial="non_saturating",
      adversarial_weight=0.1, adaptive="none", lecam_weight=0.01),
    batch_size=256,
    total_steps=1_350_000,
    optim=dict(lr=1e-4, warmup=10_000, b1=0.0, b2=0.99),
    ema_decay=0.999,
    save_every=5_000,
    debug=common.debug(
      16, model=dict(common.TINY_RESNET, quantizer=dict(dim=6)), disc=common.TINY_STYLEGAN,
      loss=dict(perceptual_weight=0.0)),
  )
