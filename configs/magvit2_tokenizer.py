"""MAGVIT-2's tokenizer (arXiv 2310.05737): 17 frames of 128 x 128 pixels to 5 x 16 x 16 codes of 18
bits, causal in time, so that its first frame alone is a picture of 16 x 16 codes.

  python -m vqjax.main --config=configs/magvit2_tokenizer.py --data=PATH/TO/UCF101 \
      --workdir=runs/magvit2_tokenizer

Two groups of nine bits give the same codes as eighteen, already factorised as the paper's masked
language model takes them (the entropy penalty is of each group). The paper trains with LPIPS on
frames, which is left out here, and a StyleGAN discriminator inflated to three axes, for which a
patch discriminator stands.
"""

from configs import common


def get_config():
  return dict(
    signal=dict(name="video"),
    data=dict(name="videos", path="ucf101"),
    ops=dict(name="video", frames=17, size=128, channels=3),
    model=dict(
      name="resnet", ch=128, ch_mult=(1, 2, 2, 4), num_res_blocks=4, attn_resolutions=(),
      mid_attention=False, time="causal", time_downsamples=2, remat=True, dtype="bfloat16",
      quantizer=dict(
        name="grouped", groups=2,
        quantizer=dict(name="lfq", dim=9, entropy_weight=0.1, commitment_weight=0.25))),
    disc=dict(name="patchgan", norm="group", time_layers=1, dtype="bfloat16"),
    loss=dict(
      reconstruction="l2", adversarial="non_saturating", adversarial_weight=0.1, adaptive="none",
      lecam_weight=0.001),
    batch_size=256,
    total_steps=270_000,
    optim=dict(lr=1e-4, warmup=10_000, b1=0.0, b2=0.99),
    ema_decay=0.999,
    save_every=5_000,
    debug=common.debug_video(
      frames=9,
      model=dict(
        common.TINY_RESNET, time_downsamples=1, quantizer=dict(groups=2, quantizer=dict(dim=4))),
      disc=dict(channels=8, n_layers=1)),
  )
