"""Latent diffusion over f = 8 (arXiv 2112.10752), class-conditional ImageNet at 256 pixels, with a
transformer of about its size in the place of the U-Net.

  python -m vqjax.main --config=configs/ldm8_imagenet.py --workdir=runs/ldm8_imagenet

Needs runs/ldm_tokenizer_f8. The paper reports an FID of 15.51 for LDM-8, of 395 million weights,
after 4.8 million steps of 64. Noise is predicted, on a schedule whose √β is linear. Data: ImageNet
through TFDS, see configs/common.py.
"""

from configs import common, dit_imagenet


def get_config():
  return dit_imagenet.get_config("l") | dict(
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    scheme=dict(name="ddpm", schedule="scaled_linear"),
    batch_size=64,
    total_steps=4_800_000,
    debug=common.debug(
      16, tokenizer="runs/ldm_tokenizer_f8_debug", model=common.TINY_DIT,
      scheme=dict(likelihood_steps=2)),
  )
