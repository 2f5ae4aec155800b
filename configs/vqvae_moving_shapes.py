"""VQ-VAE's convolutions (arXiv 1711.00937) on three axes, causal in time as MAGVIT-2 is (arXiv
2310.05737), on drawn shapes that move: 8 frames of 16 x 16 pixels to 8 x 4 x 4 codes.

  python -m vqjax.main --config=configs/vqvae_moving_shapes.py --workdir=runs/vqvae_moving_shapes

The videos are drawn on the fly; nothing is downloaded. Made for a CPU. No paper has a figure for
this data.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="video"),
    data=dict(
      name="moving_shapes", size=16, frames=8, max_objects=1, shapes=("circle", "square", "cross"),
      radius=(0.2, 0.24), speed=(0.08, 0.12)),
    ops=dict(name="video", frames=8, size=16, channels=3),
    model=dict(
      name="vqvae", hidden=32, residual_hidden=16, residual_blocks=1, downsamples=2,
      time="causal", time_downsamples=0,
      quantizer=dict(name="ema", codebook_size=512, dim=8)),
    batch_size=8,
    total_steps=2_500,
    optim=dict(lr=2e-3, warmup=50, b2=0.95),
    save_every=500,
    eval_examples=256,
    debug=common.debug_video(
      model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
