"""VQ-VAE (arXiv 1711.00937) on emoji of 64 pixels, to 8 x 8 codes of 512: the tokenizer of
dalle_emoji.

  python -m vqjax.main --config=configs/vqvae_emoji.py --workdir=runs/vqvae_emoji \
      --data=PATH/TO/emoji64.npz

The data: Noto Emoji (github.com/googlefonts/noto-emoji, Apache 2.0) on white, `images` uint8 [3516,
64, 64, 3] in emoji64.npz, and `captions.json` beside it, a list of {"caption", "split"} that says
what is held out. Several times faster than dvae_emoji, which has DALL·E's own first stage.
Measured: 21.0 dB held out after 3 minutes on two CPU cores. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="arrays", path="data/emoji/emoji64.npz"),
    ops=dict(size=64, channels=3),
    model=dict(
      name="vqvae", hidden=64, residual_hidden=32, residual_blocks=2, downsamples=3,
      quantizer=dict(name="ema", codebook_size=512, dim=32)),
    batch_size=16,
    total_steps=1_500,
    optim=dict(lr=1e-3, warmup=100, end_lr=1e-5, b2=0.95),
    save_every=500,
    debug=common.debug(16, model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
