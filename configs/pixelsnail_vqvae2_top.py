"""VQ-VAE-2's prior of the top level (arXiv 1906.00446, table 5): PixelSNAIL with attention over 32
x 32 codes.

  python -m vqjax.main --config=configs/pixelsnail_vqvae2_top.py \
      --workdir=runs/pixelsnail_vqvae2_top

Needs runs/vqvae2_ffhq256. For ImageNet the paper reports 3.41 nats per code on the validation
images; it prints none for FFHQ. Its 20 layers are cut by 4 attentions; the residual width is this
module's own. Data as for vqvae2_ffhq256.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/vqvae2_ffhq256",
    data=dict(name="folder", path="data/ffhq256"),
    ops=dict(size=256, channels=3),
    model=dict(
      name="pixelsnail", blocks=4, residuals=5, width=512, heads=8, kernel=5, dropout=0.1,
      dtype="bfloat16"),
    scheme=dict(name="autoregressive"),
    level=0,
    batch_size=1_024,
    total_steps=1_600_000,
    optim=dict(lr=3e-4, warmup=5_000, clip=1.0),
    ema_decay=0.9999,
    save_every=10_000,
    debug=common.debug(
      tokenizer="runs/vqvae2_ffhq256_debug",
      model=dict(blocks=1, residuals=1, width=16, heads=2, kernel=3)),
  )
