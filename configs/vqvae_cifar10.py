"""VQ-VAE on CIFAR-10 as published (arXiv 1711.00937, section 4.1): 32 x 32 pixels to 8 x 8 x 10
codes of 512.

  python -m vqjax.main --config=configs/vqvae_cifar10.py --workdir=runs/vqvae_cifar10

TFDS downloads the data (170 MB). Ten codes stand at a position, all from one codebook. The paper
reports 4.67 bits per dimension as a bound on the likelihood (4.51 for a continuous VAE); the
squared error trained here is that of its Gaussian likelihood, and `python -m vqjax.evaluate` prints
it as MSE and PSNR. The width of a code is not published; 64 is the usual choice. The codebook is
trained as in vqvae_imagenet.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="tfds", dataset="cifar10"),
    ops=dict(size=32, channels=3, crop="none"),
    model=dict(
      name="vqvae", hidden=256, residual_hidden=256, residual_blocks=2, downsamples=2,
      quantizer=dict(
        name="grouped", groups=10, codebooks="shared", quantizer=dict(
          name="vq", codebook_size=512, dim=64, codebook_weight=1.0, commitment_weight=0.25,
          codebook_init="normal", revive=0.0))),
    batch_size=128,
    total_steps=250_000,
    optim=dict(lr=2e-4, schedule="constant", b2=0.999),
    save_every=5_000,
    debug=common.debug(
      model=common.TINY_VQVAE | dict(
        quantizer=dict(groups=2, quantizer=dict(codebook_size=32, dim=8)))),
  )
