"""VQGAN on ImageNet at 256 pixels, f = 16, 1,024 codes, as taming-transformers trained it (arXiv
2012.09841).

  python -m vqjax.main --config=configs/vqgan_imagenet_f16_1024.py \
      --workdir=runs/vqgan_imagenet_f16_1024

The release reports a reconstruction FID of 7.94 against the validation images. The discriminator
joins after 250,000 steps. Data: ImageNet through TFDS, see configs/common.py. The perceptual loss
needs LPIPS weights, see `LPIPS` there; without them set loss.perceptual_weight=0 and
loss.feature_weight=1. The learning rate is published per image; the batch is our choice.

The released weights were trained with taming's legacy order of the two codebook losses (beta on the
codebook's), a uniform start and no revival, as here. Where too few codes stay in use, train with
the paper's order and our defaults instead: name only the size and `dim` of the quantizer.
"""

from configs import common

BATCH = 96


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="resnet",
      quantizer=dict(
        name="vq", codebook_size=1_024, dim=256, codebook_weight=0.25, commitment_weight=1.0,
        codebook_init="uniform", revive=0.0)),
    disc=dict(name="patchgan", channels=64, n_layers=3, norm="batch"),
    loss=dict(
      reconstruction="l1", perceptual_weight=1.0, perceptual_weights=common.LPIPS,
      adversarial="hinge",
      adversarial_weight=0.8, adversarial_start=250_001, disc_from="adversarial_start",
      adaptive="last_layer"),
    batch_size=BATCH,
    total_steps=500_000,
    optim=dict(lr=4.5e-6 * BATCH, schedule="constant", b1=0.5, b2=0.9),
    save_every=5_000,
    debug=common.debug(
      16,
      model=dict(
        common.TINY_RESNET, attn_resolutions=(8,), quantizer=dict(codebook_size=64, dim=8)),
      disc=dict(channels=8, n_layers=1), loss=dict(perceptual_weight=0.0, adversarial_start=1)),
  )
