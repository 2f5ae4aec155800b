"""A transformer in the delayed order (MusicGen, arXiv 2306.05284) over the codes of codec_digits,
given which digit is spoken.

  python -m vqjax.main --config=configs/prior_digits.py --workdir=runs/prior_digits --data=FOLDER
  python -m vqjax.sample --workdir=runs/prior_digits --label=all --num=20 --output=digits.wav

Needs runs/codec_digits, and its data; hears twice as much at once as the codec did, whose
convolutions take any length. No paper has a figure for this data. Measured: 3.81 nats a code held
out after 14 minutes of one core.
"""

from configs import codec_digits, common


def get_config():
  tokenizer = codec_digits.get_config()
  return dict(
    task="prior",
    tokenizer="runs/codec_digits",
    data=tokenizer["data"],
    ops=tokenizer["ops"] | dict(length=5_120, crop="start"),
    order=dict(name="delayed"),
    model=dict(name="transformer", layers=4, width=128, heads=4, dropout=0.1),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=10), drop=0.1),
    batch_size=32,
    total_steps=800,
    optim=dict(lr=1e-3, warmup=50, b2=0.95, weight_decay=0.05, clip=1.0),
    log_every=50,
    save_every=400,
    eval_examples=300,
    preview=4,
    debug=common.debug_sound(
      tokenizer="runs/codec_digits_debug", model=dict(layers=2, width=32, heads=2)),
  )
