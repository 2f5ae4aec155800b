"""VQGAN (arXiv 2012.09841) on photographs of hands, 64 x 64 to 16 x 16 codes of 512:
vqvae_sign_digits goes on with an adversary.

  python -m vqjax.main --config=configs/vqgan_sign_digits.py --data=FOLDER \
      --workdir=runs/vqgan_sign_digits

Starts from runs/vqvae_sign_digits and adds a patch discriminator, feature matching in it and
VQGAN's adaptive weight. The data is that of vqvae_sign_digits. Compare with the same steps without
them:
`--config=configs/vqvae_sign_digits.py --config.init_from=runs/vqvae_sign_digits
--config.total_steps=400`. No paper has a figure for this data.
"""

from configs import vqvae_sign_digits


def get_config():
  config = vqvae_sign_digits.get_config()
  config["debug"] |= dict(disc=dict(channels=8), loss=dict(adversarial_start=1), init_from=None)
  return config | dict(
    disc=dict(name="patchgan", channels=32, n_layers=2, norm="group"),
    loss=dict(
      reconstruction="l1", feature_weight=0.2, adversarial="hinge", adversarial_weight=0.5,
      adversarial_start=50),
    init_from="runs/vqvae_sign_digits",
    batch_size=16,
    total_steps=400,
    save_every=200,
    optim=dict(lr=2e-4, warmup=20, b1=0.5),
    evaluators=("distortion", "ssim", "codes", "sharpness"),
  )
