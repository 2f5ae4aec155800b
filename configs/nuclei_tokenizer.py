"""VQ-VAE (arXiv 1711.00937) on microscope photographs of cell nuclei, 64 x 64 pixels to 16 x 16
codes.

  python -m vqjax.main --config=configs/nuclei_tokenizer.py --data=nuclei128.npz \
      --workdir=runs/nuclei_tokenizer

The data are those of nuclei_layout_tokenizer. No paper has a figure for them. Measured on 133
held-out photographs: 35.3 dB.
"""

from configs import common, nuclei_layout_tokenizer


def get_config():
  return nuclei_layout_tokenizer.get_config() | dict(
    signal=dict(name="image"),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=2,
      quantizer=dict(name="ema", codebook_size=256, dim=32)),
    loss=dict(reconstruction="l2"),
    debug=common.debug(
      model=common.TINY_VQVAE | dict(
        quantizer=dict(codebook_size=32, dim=8))) | dict(ops=dict(size=32, crop="center")),
  )
