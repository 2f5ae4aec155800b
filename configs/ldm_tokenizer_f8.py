"""Latent diffusion's first stage, f = 8, 32 x 32 x 4 Gaussian latents of 256 pixels (arXiv
2112.10752); Stable Diffusion's has the same sizes.

  python -m vqjax.main --config=configs/ldm_tokenizer_f8.py --workdir=runs/ldm_tokenizer_f8

The release, trained on OpenImages, reports a reconstruction FID of 0.90 and 24.2 dB (kl-f8, table
8). Its KL of 1e-6, against sums over all of an image, is 1e-6 / (3 * 8^2) in our units. Data:
ImageNet through TFDS, see configs/common.py, where LPIPS is explained too. Published weights:
`python -m vqjax.convert --source=autoencoder_kl`.
"""

from configs import common

BATCH = 64


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="resnet", ch_mult=(1, 2, 4, 4), attn_resolutions=(), z_channels=4,
      quantizer=dict(name="gaussian", dim=4, kl_weight=1e-6 / (3 * 8**2))),
    disc=dict(name="patchgan", n_layers=3, norm="batch"),
    loss=dict(
      reconstruction="l1", perceptual_weight=1.0, perceptual_weights=common.LPIPS,
      adversarial="hinge", adversarial_weight=0.5, adversarial_start=50_001,
      disc_from="adversarial_start", adaptive="last_layer"),
    batch_size=BATCH,
    total_steps=500_000,
    optim=dict(lr=4.5e-6 * BATCH, schedule="constant", b1=0.5, b2=0.9),
    save_every=5_000,
    debug=common.debug(
      16,
      model=dict(common.TINY_RESNET, z_channels=4),
      disc=dict(channels=8, n_layers=1), loss=dict(perceptual_weight=0.0)),
  )
