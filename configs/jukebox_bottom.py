"""The bottom level of Jukebox (arXiv 2005.00341): a VQ-VAE on one axis, 44.1 kHz to 5,512 codes of
2,048 in a second.

  python -m vqjax.main --config=configs/jukebox_bottom.py \
      --workdir=runs/jukebox_bottom --data=FOLDER

Width, codes and the spectral term are the paper's (its section 3.3); the residual blocks are those
of the images' VQ-VAE, whose convolutions are not dilated. The paper reports a spectral convergence
of -23.0 dB for this level.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="audio"),
    data=dict(name="sounds", path="data/sounds"),
    ops=dict(name="audio", rate=44_100, length=65_536),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=64, residual_blocks=4, downsamples=3,
      quantizer=dict(name="ema", codebook_size=2048, dim=64, commitment_weight=0.02)),
    loss=dict(reconstruction="l2", distances=dict(stft=0.1)),
    batch_size=32,
    total_steps=384_000,
    optim=dict(lr=3e-4),
    ema_decay=0.999,
    save_every=5_000,
    debug=common.debug_sound(
      model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
