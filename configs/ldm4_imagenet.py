"""Latent diffusion over f = 4 (arXiv 2112.10752), class-conditional ImageNet at 256 pixels, with a
transformer of about its size, over patches of four, in the place of the U-Net.

  python -m vqjax.main --config=configs/ldm4_imagenet.py --workdir=runs/ldm4_imagenet

Needs runs/ldm_tokenizer_f4. The paper reports an FID of 10.56 for LDM-4, of 400 million weights,
and 3.60 with guidance by 1.5, after 178,000 steps of 1,200. Data: ImageNet through TFDS, see
configs/common.py.
"""

from configs import ldm8_imagenet


def get_config():
  config = ldm8_imagenet.get_config()
  config["model"] |= dict(patch=4)
  config["debug"] |= dict(tokenizer="runs/ldm_tokenizer_f4_debug")
  return config | dict(tokenizer="runs/ldm_tokenizer_f4", batch_size=1_200, total_steps=178_000)
