"""DAC at 44.1 kHz (arXiv 2306.06546): 86 steps of 9 codes of 10 bits in a second, 7.8 kbit/s.

  python -m vqjax.main --config=configs/dac_44khz.py --workdir=runs/dac_44khz --data=FOLDER

Speech, music and other sounds in wav, flac, ogg or mp3 at any rate. The paper's weights and terms:
mel 15, feature matching 2, adversary 1; features are compared relative to their size here. The
published weights come with `python -m vqjax.convert --source=dac`.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="audio"),
    data=dict(name="sounds", path="data/sounds"),
    ops=dict(name="audio", rate=44_100, length=16_896, gain=(-12.0, 0.0)),
    model=dict(
      name="seanet", trim="even",
      quantizer=dict(
        name="residual", depth=9, dropout=0.5,
        quantizer=dict(
          name="projected", outer=1024, norm="weight",
          quantizer=dict(name="vq", codebook_size=1024, dim=8, normalize="search")))),
    disc=dict(name="waves"),
    loss=dict(
      reconstruction="l1", reconstruction_weight=0.0, distances=dict(mel=15.0),
      feature_weight=2.0, adversarial="least_squares", adversarial_weight=1.0, adaptive="none"),
    batch_size=72,
    total_steps=400_000,
    optim=dict(lr=1e-4, b1=0.8, b2=0.99, clip=1e3),
    optim_disc=dict(lr=1e-4, b1=0.8, b2=0.99, clip=10.0),
    save_every=5_000,
    debug=common.debug_sound(model=common.TINY_SEANET, disc=common.TINY_WAVES),
  )
