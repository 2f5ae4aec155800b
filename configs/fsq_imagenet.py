"""Finite scalar quantization on ImageNet at 256 pixels (arXiv 2309.15505): MaskGIT's tokenizer with
1,000 codes.

  python -m vqjax.main --config=configs/fsq_imagenet.py --workdir=runs/fsq_imagenet

As maskgit_tokenizer but for the quantizer: levels (8, 5, 5, 5), no codebook, no auxiliary losses.
The paper reports that MaskGIT on these codes reaches an FID of 4.53, where the learned codebook
reaches 4.51. Data and LPIPS: see configs/common.py.
"""

from configs import common, maskgit_tokenizer


def get_config():
  return maskgit_tokenizer.get_config() | dict(
    model=dict(
      name="resnet", attn_resolutions=(), mid_attention=False,
      quantizer=dict(name="fsq", levels=(8, 5, 5, 5))),
    debug=common.debug(
      16, model=common.TINY_RESNET, disc=common.TINY_STYLEGAN, loss=dict(perceptual_weight=0.0)),
  )
