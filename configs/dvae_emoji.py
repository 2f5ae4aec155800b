"""DALL·E's discrete VAE (arXiv 2102.12092) made small: emoji of 64 pixels to 8 x 8 codes of 512.

  python -m vqjax.main --config=configs/dvae_emoji.py --workdir=runs/dvae_emoji \
      --data=PATH/TO/emoji64.npz

Gumbel-softmax, logit-Laplace and the KL to the uniform prior as in configs/dvae_dalle.py, with
schedules as much shorter as the run. `captions.json` beside the array says what is held out. Made
for two CPU cores. No paper has a figure for this data.
"""

from configs import common


def get_config():
  return dict(
    data=dict(name="arrays", path="data/emoji/emoji64.npz"),
    ops=dict(size=64, channels=3),
    model=dict(
      name="dvae", hidden=32, blocks_per_group=1,
      quantizer=dict(
        name="gumbel", codebook_size=512, dim=128, projection="none", mode="soft",
        temperature=(1.0, 1 / 16, 1_500, "cosine"), kl_weight=(0.0, 6.6 / 192, 500, "linear"))),
    loss=dict(reconstruction="logit_laplace"),
    batch_size=32,
    total_steps=2_000,
    optim=dict(lr=1e-3, warmup=50, end_lr=1e-5, b2=0.99),
    ema_decay=0.99,
    log_every=50,
    save_every=500,
    debug=common.debug(
      16, model=dict(hidden=8, groups=2, quantizer=dict(codebook_size=64, dim=16))),
  )
