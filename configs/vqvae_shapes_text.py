"""VQ-VAE (arXiv 1711.00937) on drawn shapes of one or two objects, 32 x 32 pixels to 8 x 8 codes:
the tokenizer of dalle_shapes.

  python -m vqjax.main --config=configs/vqvae_shapes_text.py --workdir=runs/vqvae_shapes_text

vqvae_shapes with a second object, and one colour of each shape kept for the held-out split. Made
for a CPU; nothing is downloaded. No paper has a figure for this data.
"""

from configs import vqvae_shapes


def get_config():
  config = vqvae_shapes.get_config()
  world = dict(num_train=50_000, max_objects=2, sizes=("medium", "large"), unseen=1)
  quantizer = dict(name="ema", codebook_size=512, dim=32)
  model = config["model"] | dict(hidden=96, quantizer=quantizer)
  return config | dict(data=config["data"] | world, model=model, total_steps=3_000)
