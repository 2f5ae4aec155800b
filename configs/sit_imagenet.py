"""SiT-XL/2 (arXiv 2401.08740): DiT's network trained as a flow with straight paths.

  python -m vqjax.main --config=configs/sit_imagenet.py --workdir=runs/sit_imagenet

Needs runs/ldm_tokenizer_f8, trained or converted. As published: uniform times, else all as DiT. The
paper reports an FID of 8.3, 2.06 with guidance by 1.5 (by its SDE), after 7 million steps. Data:
ImageNet through TFDS, see configs/common.py.
"""

from configs import dit_imagenet


def get_config():
  return dit_imagenet.get_config("xl") | dict(scheme=dict(name="flow", times="uniform"))
