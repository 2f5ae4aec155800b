"""VQ-VAE-2's prior of the bottom level (arXiv 1906.00446, table 5): PixelSNAIL over 64 x 64 codes,
given the top's.

  python -m vqjax.main --config=configs/pixelsnail_vqvae2_bottom.py \
      --workdir=runs/pixelsnail_vqvae2_bottom
  python -m vqjax.sample --workdir=runs/pixelsnail_vqvae2_bottom --num=16 --output=samples.png

Needs runs/vqvae2_ffhq256, and runs/pixelsnail_vqvae2_top to sample. For ImageNet the paper reports
3.45 nats per code on the validation images; it prints none for FFHQ. No attention, as published.
Data as for vqvae2_ffhq256.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqvae2_ffhq256",
    data=dict(name="folder", path="data/ffhq256"),
    ops=dict(size=256, channels=3),
    model=dict(
      name="pixelsnail", blocks=4, residuals=5, width=512, kernel=5, attention="none",
      prefix_layers=20,
      dropout=0.1, dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    level=1,
    condition=dict(coarser=dict(prior="runs/pixelsnail_vqvae2_top"), drop=0.0),
    batch_size=512,
    total_steps=754_000,
    optim=dict(lr=3e-4, warmup=5_000, clip=1.0),
    ema_decay=0.9999,
    save_every=10_000,
    debug=common.debug(
      tokenizer="runs/vqvae2_ffhq256_debug",
      model=dict(blocks=1, residuals=1, width=16, kernel=3, prefix_layers=1),
      condition=dict(coarser=dict(prior="runs/pixelsnail_vqvae2_top_debug"))),
  )
