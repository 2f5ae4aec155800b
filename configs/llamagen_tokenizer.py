"""LlamaGen's tokenizer (arXiv 2406.06525): VQGAN's layers, f = 16, 16,384 codes of 8 dimensions on
the unit sphere.

  python -m vqjax.main --config=configs/llamagen_tokenizer.py --workdir=runs/llamagen_tokenizer

The paper reports, at 256 pixels, a reconstruction FID of 2.19, 20.79 dB PSNR and 97 % of the
codebook in use after 40 epochs. The k-means start of the codebook and the revival of its dead codes
are ours. Data: ImageNet through TFDS; the perceptual loss needs LPIPS weights; for both see
configs/common.py.
"""

from configs import common


def get_config():
  return dict(
    data=common.IMAGENET,
    ops=dict(size=256, channels=3, crop="random_resized", min_area=0.64, flip=True),
    model=dict(
      name="resnet", dtype="bfloat16",
      quantizer=dict(
        name="vq", codebook_size=16_384, dim=8, normalize="l2", commitment_weight=0.25)),
    disc=dict(name="patchgan", dtype="bfloat16"),
    loss=dict(
      reconstruction="l2", perceptual_weight=1.0, perceptual_weights=common.LPIPS,
      adversarial="hinge",
      adversarial_weight=0.5, adversarial_start=20_000, disc_from="adversarial_start",
      adaptive="none"),
    batch_size=128,
    total_steps=400_000,
    optim=dict(lr=1e-4, schedule="constant", b1=0.9, b2=0.95, clip=1.0),
    save_every=5_000,
    debug=common.debug(
      16, model=dict(common.TINY_RESNET, attn_resolutions=(8,), quantizer=dict(codebook_size=64)),
      disc=dict(channels=8, n_layers=1), loss=dict(perceptual_weight=0.0, adversarial_start=1)),
  )
