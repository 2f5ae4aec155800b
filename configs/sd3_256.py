"""Text to image at 256 pixels as Stable Diffusion 3 trains it (arXiv 2403.03206): a rectified flow
with logit-normal times over 16 channels, captions both pooled and in attention, about 2 billion
weights.

  python -m vqjax.main --config=configs/sd3_256.py --workdir=runs/sd3_256

Needs runs/sd3_tokenizer, trained or converted. The paper's network has weights of their own for
text and image and reads frozen text encoders; here one stream learns embeddings of captions itself.
It trains on 4,096 pairs a step, 500,000 steps at this size; its data are not public. Here they are
MS-COCO's through TFDS; any folder with captions does.
"""

from configs import common


def get_config():
  return dict(
    task="prior",
    tokenizer="runs/sd3_tokenizer",
    data=dict(name="tfds", dataset="coco_captions", eval_split="val", text="captions/text"),
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.79),
    latents=dict(kind="sampled"),
    model=dict(
      name="dit", layers=38, width=1_792, heads=28, patch=2, condition="both", qk_norm="rmsnorm",
      remat="block", dtype="bfloat16"),
    scheme=dict(name="flow", times="logit_normal"),
    condition=dict(text=dict(size=32_768, length=77, lower=True, predicted=0.0), drop=0.1),
    mesh=dict(data=1, fsdp=-1),
    batch_size=4_096,
    total_steps=500_000,
    optim=dict(lr=1e-4, schedule="constant", warmup=1_000, b2=0.95, weight_decay=0.01, clip=1.0),
    ema_decay=0.9999,
    save_every=5_000,
    debug=common.debug(
      16, tokenizer="runs/sd3_tokenizer_debug", model=common.TINY_DIT,
      condition=dict(text=dict(size=300, length=16)), scheme=dict(likelihood_steps=2)),
  )
