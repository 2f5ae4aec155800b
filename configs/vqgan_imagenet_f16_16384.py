"""VQGAN on ImageNet at 256 pixels, f = 16, 16,384 codes, as taming-transformers trained it (arXiv
2012.09841).

  python -m vqjax.main --config=configs/vqgan_imagenet_f16_16384.py \
      --workdir=runs/vqgan_imagenet_f16_16384

The release reports a reconstruction FID of 4.98 against the validation images. The discriminator is
there from the start. Data: ImageNet through TFDS, see configs/common.py. The perceptual loss needs
LPIPS weights, see `LPIPS` there; without them set loss.perceptual_weight=0 and
loss.feature_weight=1. The learning rate is published per image; the batch is our choice. The
codebook is trained as in vqgan_imagenet_f16_1024.
"""

from configs import vqgan_imagenet_f16_1024


def get_config():
  config = vqgan_imagenet_f16_1024.get_config()
  config["model"]["quantizer"] |= dict(codebook_size=16_384)
  config["disc"] |= dict(n_layers=2)
  config["loss"] |= dict(adversarial_weight=0.75, adversarial_start=0)
  return config
