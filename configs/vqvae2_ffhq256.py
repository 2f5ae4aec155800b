"""VQ-VAE-2 (arXiv 1906.00446) on FFHQ at 256 pixels: 32 x 32 codes above 64 x 64 codes, 512 each.

  python -m vqjax.main --config=configs/vqvae2_ffhq256.py \
      --workdir=runs/vqvae2_ffhq256 --data=FOLDER

The settings are the paper's for ImageNet at 256 pixels, its codebooks without k-means and revival
(see vqvae_imagenet on how they start); it reports a squared error of 0.0050 on the validation
images (its FFHQ model has three levels and 1024 pixels: levels=3). FFHQ comes from
github.com/NVlabs/ffhq-dataset.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="folder", path="data/ffhq256"),
    ops=dict(size=256, channels=3),
    model=dict(
      name="vqvae2", levels=2, downsamples=2, hidden=128, residual_hidden=64, residual_blocks=2,
      quantizer=dict(
        name="ema", codebook_size=512, dim=64, decay=0.99, commitment_weight=0.25,
        codebook_init="normal", revive=0.0)),
    batch_size=128,
    total_steps=2_200_000,
    optim=dict(lr=3e-4, schedule="constant", b2=0.999),
    save_every=10_000,
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
