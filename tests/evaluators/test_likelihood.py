"""Nats per code, bits and their error against the definitions, over two batches with padding."""

import jax
import numpy as np

from vqjax import evaluators
from vqjax.evaluators import likelihood


def test_written_out():
  nats = np.random.default_rng(0).uniform(0, 4, (3, 5)).astype(np.float32)
  measure, total = likelihood.Measure(values=20), None
  junk = np.full((1, 5), np.nan, np.float32)
  for rows, mask in ((nats[:2], [1.0, 1.0]), (np.concatenate([nats[2:], junk]), [1.0, 0.0])):
    new = jax.jit(measure.update)((), {}, {"nats": rows}, np.array(mask, np.float32))
    total = evaluators.add(total, new)
  figures = measure.result(total)
  bits = nats.sum(-1).mean() / np.log(2)
  expected = {
    "nats_per_code": nats.mean(),
    "standard_error": nats.mean(-1).std() / np.sqrt(3),
    "bits_per_image": bits,
    "bits_per_dim": bits / 20,
  } | {f"nats_at/{i}": value for i, value in enumerate(nats.mean(0))}
  assert figures.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(figures[name], value, rtol=1e-5, err_msg=name)
