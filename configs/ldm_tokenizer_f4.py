"""Latent diffusion's first stage, f = 4, 64 x 64 x 3 Gaussian latents of 256 pixels (arXiv
2112.10752).

  python -m vqjax.main --config=configs/ldm_tokenizer_f4.py --workdir=runs/ldm_tokenizer_f4

The release, trained on OpenImages, reports a reconstruction FID of 0.27 and 27.5 dB (kl-f4, table
8); else as ldm_tokenizer_f8.
"""

from configs import ldm_tokenizer_f8


def get_config():
  config = ldm_tokenizer_f8.get_config()
  config["model"] |= dict(
    ch_mult=(1, 2, 4), z_channels=3,
    quantizer=dict(name="gaussian", dim=3, kl_weight=1e-6 / (3 * 4**2)))
  config["debug"]["model"] |= dict(z_channels=3)
  return config
