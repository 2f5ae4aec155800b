"""EnCodec at 24 kHz (arXiv 2210.13438): causal, 75 steps of up to 32 codes of 10 bits in a second,
24 kbit/s and below.

  python -m vqjax.main --config=configs/encodec_24khz.py --workdir=runs/encodec_24khz --data=FOLDER

Quantizer dropout lets any first codes decode. Judged by complex STFTs of five windows, as the
paper's; its balancer of gradients is not here, weights are fixed. The published weights come with
`python -m vqjax.convert --source=encodec`.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="audio"),
    data=dict(name="sounds", path="data/sounds"),
    ops=dict(name="audio", rate=24_000, length=24_000, gain=(-10.0, 6.0)),
    model=dict(
      name="seanet", width=32, strides=(2, 4, 5, 8), decoder_width=None, dilations=(1,),
      residual_size=3, compress=2, shortcut="conv", sizes=(7, 7, 7, 7), activation="elu",
      time="causal", edges="reflect", lstm=2, output="none",
      quantizer=dict(
        name="residual", depth=32, dropout=1.0,
        quantizer=dict(name="ema", codebook_size=1024, dim=128, commitment_weight=1.0))),
    disc=dict(name="waves", periods=(), windows=(2048, 1024, 512, 256, 128), bands=()),
    loss=dict(
      reconstruction="l1", reconstruction_weight=0.1, distances=dict(mel=1.0, stft=1.0),
      feature_weight=3.0, adversarial="hinge", adversarial_weight=3.0, adaptive="none"),
    batch_size=64,
    total_steps=600_000,
    optim=dict(lr=3e-4, b1=0.5, b2=0.9, clip=10.0),
    save_every=5_000,
    debug=common.debug_sound(
      model=dict(
        width=4, strides=(4, 8), lstm=1,
        quantizer=dict(depth=2, quantizer=dict(codebook_size=16, dim=8))),
      disc=dict(windows=(64,), channels=4)),
  )
