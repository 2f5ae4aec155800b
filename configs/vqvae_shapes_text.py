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
  return config | dict(data=config["data"] | world, total_steps=1_500)
