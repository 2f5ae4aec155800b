"""VQGAN with Gumbel-softmax codes, f = 8, 8,192 codes, as taming-transformers trained it (arXiv
2012.09841).

  python -m vqjax.main --config=configs/vqgan_imagenet_f8_gumbel8192.py \
      --workdir=runs/vqgan_imagenet_f8_gumbel8192

The release, trained on OpenImages, reports a reconstruction FID of 1.49 against ImageNet's
validation images. Its temperature falls from 0.9 to 1e-6 over a million steps by half a cosine, its
KL weight of 1e-8 has our units (sum over codes, mean over positions); the discriminator's settings
were not released and are those of the f = 16 model. Codes start with variance 1, as theirs. Data:
ImageNet through TFDS, see configs/common.py, where LPIPS is explained too.
"""

from configs import common

BATCH = 64


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="resnet", ch_mult=(1, 1, 2, 4), attn_resolutions=(32,),
      quantizer=dict(
        name="gumbel", codebook_size=8_192, dim=256, mode="hard", kl_weight=1e-8,
        temperature=(0.9, 1e-6, 1_000_000, "cosine"))),
    disc=dict(name="patchgan", n_layers=2, norm="batch"),
    loss=dict(
      reconstruction="l1", perceptual_weight=1.0, perceptual_weights=common.LPIPS,
      adversarial="hinge",
      adversarial_weight=0.75, disc_from="adversarial_start", adaptive="last_layer"),
    batch_size=BATCH,
    total_steps=1_000_000,
    optim=dict(lr=4.5e-6 * BATCH, schedule="constant", b1=0.5, b2=0.9),
    save_every=5_000,
    debug=common.debug(
      16,
      model=dict(
        common.TINY_RESNET, attn_resolutions=(8,), quantizer=dict(codebook_size=64, dim=8)),
      disc=dict(channels=8, n_layers=1), loss=dict(perceptual_weight=0.0)),
  )
