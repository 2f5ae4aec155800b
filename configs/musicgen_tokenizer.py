"""The EnCodec of MusicGen (arXiv 2306.05284, section 3): 32 kHz, 50 steps of 4 codes of 11 bits in
a second.

  python -m vqjax.main --config=configs/musicgen_tokenizer.py \
      --workdir=runs/musicgen_tokenizer --data=FOLDER

As encodec_24khz, but centred and of other strides. The paper reports no distortion of its own. The
published weights come with `python -m vqjax.convert --source=encodec`.
"""

from configs import encodec_24khz


def get_config():
  config = encodec_24khz.get_config()
  model = config["model"] | dict(width=64, strides=(4, 4, 5, 8), time="centred", edges="zeros")
  model["quantizer"] = dict(
    name="residual", depth=4, dropout=0.0,
    quantizer=dict(name="ema", codebook_size=2048, dim=128, commitment_weight=1.0))
  return config | dict(
    model=model, ops=dict(name="audio", rate=32_000, length=32_000 * 30), batch_size=192)
