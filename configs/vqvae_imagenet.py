"""VQ-VAE on ImageNet as published (arXiv 1711.00937, section 4.2): 128 x 128 pixels to 32 x 32
codes of 512.

  python -m vqjax.main --config=configs/vqvae_imagenet.py --workdir=runs/vqvae_imagenet

Data: ImageNet through TFDS, see configs/common.py; `--data=FOLDER` reads a folder instead. The
paper shows reconstructions that are slightly blurrier than the originals, at 42.6 times fewer bits,
and prints no measure of them. The codebook learns by the paper's eq. 3 with beta 0.25; no k-means,
no revival. Not published: the start of the codes (the authors' code, Sonnet's, draws them uniformly
with the variance 1 / dim of our "normal") and their width, 64 here.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=128, channels=3),
    model=dict(
      name="vqvae", hidden=256, residual_hidden=256, residual_blocks=2, downsamples=2,
      quantizer=dict(
        name="vq", codebook_size=512, dim=64, codebook_weight=1.0, commitment_weight=0.25,
        codebook_init="normal", revive=0.0)),
    batch_size=128,
    total_steps=250_000,
    optim=dict(lr=2e-4, schedule="constant", b2=0.999),
    save_every=5_000,
    debug=common.debug(model=common.TINY_VQVAE | dict(quantizer=dict(codebook_size=32, dim=8))),
  )
