"""VideoGPT's VQ-VAE (arXiv 2104.10157): 16 frames of 128 x 128 pixels to 4 x 32 x 32 codes.

  python -m vqjax.main --config=configs/videogpt_tokenizer.py --data=PATH/TO/UCF101 \
      --workdir=runs/videogpt_tokenizer

Widths and depths are the published code's defaults. The paper's residual blocks also hold axial
attention, which this convolutional model leaves out; it reports no reconstruction figure for
UCF-101. `--data` takes a folder of films, here with a subfolder for each class.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="video"),
    data=dict(name="videos", path="ucf101"),
    ops=dict(name="video", frames=16, size=128, channels=3),
    model=dict(
      name="vqvae", hidden=240, residual_hidden=120, residual_blocks=4, downsamples=2,
      dtype="bfloat16", quantizer=dict(name="ema", codebook_size=2_048, dim=256, decay=0.99)),
    loss=dict(reconstruction="l2"),
    batch_size=32,
    total_steps=200_000,
    optim=dict(lr=3e-4, b1=0.9, b2=0.999),
    save_every=5_000,
    debug=common.debug_video(
      model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
