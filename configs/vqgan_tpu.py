"""VQGAN on ImageNet at 256 pixels for a TPU pod slice (v4-32, v5e-16, larger): f = 16, 16,384
codes, bfloat16.

  python -m vqjax.main --config=configs/vqgan_tpu.py \
      --workdir=SHARED_FOLDER/vqgan_tpu    on every host, see launch/
  python -m vqjax.compile --config=configs/vqgan_tpu.py --topology=v5e:4x4
      memory and FLOPs per chip, without a TPU

Codes of 8 dimensions on the unit sphere, as LlamaGen's tokenizer has them (arXiv 2406.06525, which
reports a reconstruction FID of 2.19; VQGAN's own, arXiv 2012.09841, is 4.98). These are with LPIPS:
fetch its weights (see configs/common.py) and add --config.loss.perceptual_weight=1.0
--config.loss.perceptual_weights=FILE. Without, feature matching takes its place, so that nothing
but ImageNet (through TFDS) is needed. Where memory is short, --config.model.remat=true.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET | dict(shuffle_buffer=4_096),
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.5, flip=True),
    model=dict(
      name="resnet", dtype="bfloat16",
      quantizer=dict(name="vq", codebook_size=16_384, dim=8, normalize="l2", codebook_init="data")),
    disc=dict(name="patchgan", norm="group", dtype="bfloat16"),
    loss=dict(
      reconstruction="l1", feature_weight=1.0, adversarial="hinge", adversarial_weight=0.5,
      adversarial_start=20_000, adaptive="none"),
    mesh=dict(data=-1),
    batch_size=256,
    total_steps=400_000,
    optim=dict(lr=1e-4, warmup=5_000, end_lr=1e-5, b1=0.9, b2=0.95, clip=1.0),
    ema_decay=0.9999,
    log_every=100,
    save_every=5_000,
    eval_examples=10_000,
    debug=common.debug(
      16, model=dict(common.TINY_RESNET, attn_resolutions=(8,), quantizer=dict(codebook_size=64)),
      disc=dict(channels=8, n_layers=1), loss=dict(adversarial_start=1)),
  )
