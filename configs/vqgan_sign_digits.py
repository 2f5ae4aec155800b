"""VQGAN (arXiv 2012.09841) on photographs of hands, 64 x 64 colour pixels to 16 x 16 codes of 512.

  python -m vqjax.main --config=configs/vqgan_sign_digits.py --data=FOLDER \
      --workdir=runs/vqgan_sign_digits

A patch discriminator joins after 1,000 steps, with feature matching in it as the only perceptual
loss and VQGAN's adaptive weight; nothing is downloaded. The data is that of vqvae_sign_digits. The
same without an adversary: `--config.disc=None --config.loss.feature_weight=0`. No paper has a
figure for this data.
"""

from configs import vqvae_sign_digits


def get_config():
  config = vqvae_sign_digits.get_config()
  config["debug"] |= dict(disc=dict(channels=8), loss=dict(adversarial_start=1))
  return config | dict(
    model=config["model"] | dict(upsample="repeat"),
    disc=dict(name="patchgan", channels=32, n_layers=2, norm="group"),
    loss=dict(
      reconstruction="l1", feature_weight=0.2, adversarial="hinge", adversarial_weight=0.3,
      adversarial_start=1_000),
    batch_size=16,
    total_steps=2_500,
    save_every=500,
    optim=dict(lr=5e-4, warmup=100, b1=0.5),
    evaluators=("distortion", "ssim", "codes", "sharpness", "grid"),
  )
