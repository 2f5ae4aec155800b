"""DiT (arXiv 2212.09748): class-conditional ImageNet at 256 pixels by diffusion in a VAE's latents,
in four sizes up to XL/2 of 675 million weights.

  python -m vqjax.main --config=configs/dit_imagenet.py --workdir=runs/dit_imagenet    XL/2
  python -m vqjax.main --config=configs/dit_imagenet.py:s --workdir=runs/dit_imagenet    s, b, l, xl

Needs runs/ldm_tokenizer_f8, trained or converted (`--source=autoencoder_kl`). As published: linear
schedule of 1,000 steps, learned variance, no weight decay, batch 256, averaged weights. The paper
reports an FID of 9.62 for XL/2, 2.27 with guidance by 1.5, after 7 million steps. Published
weights: `python -m vqjax.convert --source=dit`. Data: ImageNet through TFDS, see configs/common.py;
`python -m vqjax.tokenize` computes the latents' means once, instead of `kind="sampled"`.
"""

from configs import common
from vqjax.errors import UserError, near_miss

SIZES = {
    "s": dict(layers=12, width=384, heads=6),
    "b": dict(layers=12, width=768, heads=12),
    "l": dict(layers=24, width=1_024, heads=16),
    "xl": dict(layers=28, width=1_152, heads=16),
}


def get_config(size=None):
  if (size := size or "xl") not in SIZES:
    hint = near_miss(size, SIZES)
    raise UserError(f"--config=configs/dit_imagenet.py:{size}: no such size.{hint}")
  return dict(
    task="prior",
    tokenizer="runs/ldm_tokenizer_f8",
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="center", flip=True),
    latents=dict(kind="sampled"),
    model=dict(name="dit", **SIZES[size], patch=2, remat="block", dtype="bfloat16"),
    scheme=dict(name="ddpm", variance="learned"),
    condition=dict(label=dict(classes=1_000), drop=0.1),
    mesh=dict(data=1, fsdp=-1) if size in ("l", "xl") else dict(data=-1),
    batch_size=256,
    total_steps=7_000_000,
    optim=dict(lr=1e-4, schedule="constant", warmup=1, b2=0.999, weight_decay=0.0),
    ema_decay=0.9999,
    save_every=10_000,
    debug=common.debug(
      16, tokenizer="runs/ldm_tokenizer_f8_debug", model=common.TINY_DIT,
      scheme=dict(likelihood_steps=2)),
  )
