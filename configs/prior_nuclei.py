"""Photographs from label maps: a gated PixelCNN (arXiv 1606.05328) over the photograph's codes,
given the map's (arXiv 2012.09841).

  python -m vqjax.main --config=configs/prior_nuclei.py --data=nuclei128.npz \
      --workdir=runs/prior_nuclei
  python -m vqjax.sample --workdir=runs/prior_nuclei --layout=map.png --num=16 --output=samples.png

Needs runs/nuclei_tokenizer and runs/nuclei_layout_tokenizer. A map is 64 x 64 pixels; a pixel's
value is its class. Made for a CPU. No paper has a figure for this data. Measured on 133 held-out
pairs after ten minutes on one CPU core: 1.23 nats per code.
"""

from configs import common, nuclei_tokenizer


def get_config():
  tokenizer = nuclei_tokenizer.get_config()
  return dict(
    task="prior",
    tokenizer="runs/nuclei_tokenizer",
    condition=dict(layout_codes=dict(tokenizer="runs/nuclei_layout_tokenizer")),
    data=tokenizer["data"],
    ops=tokenizer["ops"],
    model=dict(name="pixelcnn", layers=6, width=48, kernel=5),
    scheme=dict(name="autoregressive"),
    batch_size=16,
    total_steps=700,
    optim=dict(lr=3e-3, warmup=100, b2=0.95, weight_decay=0.01, clip=1.0),
    save_every=350,
    debug=common.debug(
      tokenizer="runs/nuclei_tokenizer_debug",
      condition=dict(layout_codes=dict(tokenizer="runs/nuclei_layout_tokenizer_debug")),
      model=dict(layers=2, width=16, kernel=3)) | dict(ops=dict(size=32, crop="center")),
  )
