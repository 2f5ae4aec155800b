"""Stable Diffusion 3's first stage, f = 8, 32 x 32 x 16 Gaussian latents of 256 pixels (arXiv
2403.03206): as ldm_tokenizer_f8 with four times the channels.

  python -m vqjax.main --config=configs/sd3_tokenizer.py --workdir=runs/sd3_tokenizer

The paper reports a reconstruction FID of 1.06 and 28.6 dB with 16 channels (table 3). Published
weights: `python -m vqjax.convert --source=autoencoder_kl`.
"""

from configs import ldm_tokenizer_f8


def get_config():
  config = ldm_tokenizer_f8.get_config()
  config["model"] |= dict(
    z_channels=16, quantizer=dict(name="gaussian", dim=16, kl_weight=1e-6 / (3 * 8**2)))
  config["debug"]["model"] |= dict(z_channels=16)
  return config
