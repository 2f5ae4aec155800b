"""DALL·E's discrete VAE (arXiv 2102.12092, section 2.1 and appendix A): 256 x 256 pixels to 32 x 32
codes of 8,192.

  python -m vqjax.main --config=configs/dvae_dalle.py --workdir=runs/dvae_dalle

The paper divides the whole bound by 256 * 256 * 3 values, so its KL, summed over 32 * 32 positions,
gets the weight 6.6 / 192 per position. Our terms are just these means: nats per value for the
reconstruction, nats per position for the KL. So kl_weight ends at 6.6 / 192. As published: KL
weight from 0 over 5,000 steps; by half cosines, temperature 1 to 1/16 over 150,000 and learning
rate 1e-4 to 1.25e-6 over 1.2 million (where this run ends); averaged weights. The paper prints no
measure of reconstruction. It had 250 million pictures; here it is ImageNet through TFDS, see
configs/common.py.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.79, flip=True),
    model=dict(
      name="dvae", dtype="bfloat16",
      quantizer=dict(
        name="gumbel", codebook_size=8_192, dim=128, projection="none", mode="soft",
        temperature=(1.0, 1 / 16, 150_000, "cosine"), kl_weight=(0.0, 6.6 / 192, 5_000, "linear"))),
    loss=dict(reconstruction="logit_laplace"),
    batch_size=512,
    total_steps=1_200_000,
    optim=dict(lr=1e-4, end_lr=1.25e-6, b1=0.9, b2=0.999, weight_decay=1e-4),
    ema_decay=0.999,
    save_every=5_000,
    debug=common.debug(
      16,
      model=dict(hidden=8, groups=2, blocks_per_group=1, quantizer=dict(codebook_size=64, dim=16))),
  )
