"""The prior of MusicGen-small (arXiv 2306.05284): a transformer over 30 seconds of 4 x 1,500 codes
in the delayed order, given a caption.

  python -m vqjax.main --config=configs/musicgen_small.py --workdir=runs/musicgen_small \
      --config.tokenizer=runs/musicgen_tokenizer --data=FOLDER
  python -m vqjax.sample --workdir=runs/musicgen_small --text="a slow piano piece" --num=4 \
      --guidance=3 --top_k=250 --output=samples.wav

Needs runs/musicgen_tokenizer and sounds with captions. Depth, width and heads are the paper's 300M;
captions are tokens before the codes here, where the paper's come from a frozen T5. It reports an
FAD of 3.1 on MusicCaps for the 300M model.
"""

from configs import common, musicgen_tokenizer


def get_config():
  tokenizer = musicgen_tokenizer.get_config()
  return dict(
    task="prior",
    tokenizer="runs/musicgen_tokenizer",
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    order=dict(name="delayed"),
    model=dict(
      name="transformer", layers=24, width=1_024, heads=16, hidden=4_096, remat="block",
      dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    condition=dict(text=dict(size=16_384, length=64), drop=0.1),
    batch_size=192,
    total_steps=1_000_000,
    optim=dict(lr=1e-4, warmup=4_000, b2=0.95, weight_decay=0.1, clip=1.0),
    ema_decay=0.99,
    save_every=5_000,
    debug=common.debug_sound(
      tokenizer="runs/musicgen_tokenizer_debug",
      model=common.TINY_TRANSFORMER | dict(hidden=64),
      condition=dict(text=dict(size=300, length=16))),
  )
