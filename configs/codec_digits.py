"""A small neural codec (after EnCodec, arXiv 2210.13438) for spoken digits at 8 kHz: 62.5 steps of
8 codes of 10 bits in a second, 5 kbit/s.

  python -m vqjax.main --config=configs/codec_digits.py --data=FOLDER --workdir=runs/codec_digits

The data: the Free Spoken Digit Dataset as a folder, `train/` and `test/` with a folder for each
digit; docs/README.md has the lines that make it, and what Opus and mp3 make of it. No paper has a
figure for this. Measured: SI-SDR 8.5 dB on the training's held-out crops after 48 minutes of one
core. Crops are shorter than most words: silence that fills them up would rule the logarithms in the
loss. The codebooks are averages: DAC's, compared by direction alone (`projected`), let the latents'
lengths run away at such a rate of learning.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="audio"),
    data=dict(name="sounds", path="data/digits"),
    ops=dict(name="audio", rate=8_000, length=2_560, peak=0.9),
    model=dict(
      name="seanet", width=16, strides=(2, 4, 4, 4), decoder_width=None, dilations=(1,),
      residual_size=3, compress=2, activation="elu",
      quantizer=dict(
        name="residual", depth=8, dropout=0.5,
        quantizer=dict(name="ema", codebook_size=1024, dim=64))),
    loss=dict(reconstruction="l1", reconstruction_weight=100.0, distances=dict(mel=2.0, stft=1.0)),
    batch_size=16,
    total_steps=12_000,
    optim=dict(lr=1e-3, warmup=100, clip=1.0),
    ema_decay=0.999,
    save_every=1_000,
    eval_examples=160,
    preview=4,
    log_every=25,
    debug=common.debug_sound(
      model=common.TINY_SEANET | dict(
        quantizer=dict(depth=2, quantizer=dict(codebook_size=16, dim=4)))),
  )
