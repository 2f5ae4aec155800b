"""VQ-VAE (arXiv 1711.00937) on three axes, causal in time as MAGVIT-2 is (arXiv 2310.05737), on
drawn shapes that move: 8 frames of 32 x 32 pixels to 8 x 8 x 8 codes.

  python -m vqjax.main --config=configs/vqvae_moving_shapes.py --workdir=runs/vqvae_moving_shapes

The videos are drawn on the fly; nothing is downloaded. Made for a CPU. No paper has a figure for
this data.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="video"),
    data=dict(name="moving_shapes", size=32, frames=8, shapes=("circle", "square", "cross")),
    ops=dict(name="video", frames=8, size=32, channels=3),
    model=dict(
      name="vqvae", hidden=32, residual_hidden=16, residual_blocks=1, downsamples=2,
      time="causal", time_downsamples=0,
      quantizer=dict(name="ema", codebook_size=512, dim=16)),
    batch_size=16,
    total_steps=1_000,
    optim=dict(lr=2e-3, warmup=50, b2=0.95),
    save_every=250,
    eval_examples=256,
    debug=common.debug_video(
      model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
