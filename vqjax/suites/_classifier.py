"""A small classifier of real pictures, by which samples are judged: class by class, and as a whole
by the Fréchet distance in its features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


class Classifier(nn.Module):
  """A small convolutional classifier of [B, H, W, C] in [-1, 1]: (logits, 128 features)."""

  classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    for width in (32, 64, 128):
      x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
    features = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.classes)(features), features


class Judge(NamedTuple):
  """A trained classifier.

  predict(images uint8) -> (classes, features [B, 128])
  accuracy: on the real held-out images.
  real: features of these.
  """

  predict: Callable[[Any], Any]
  accuracy: float
  real: np.ndarray


def train(dataset: Any, classes: int, steps: int = 1500, batch_size: int = 128) -> Judge:
  """Trains on the real images of a data.Dataset."""
  model = Classifier(classes)
  tx = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-3)
  scale = lambda image: jnp.asarray(image, jnp.float32) / 127.5 - 1
  stream = dataset.train(batch_size, seed=1)
  params = model.init(jax.random.key(0), scale(next(stream)["image"]))
  opt = tx.init(params)

  @jax.jit
  def step(params: Any, opt: Any, image: jax.Array, label: jax.Array) -> Any:
    loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(
      model.apply(p, scale(image))[0], label
    ).mean()
    updates, opt = tx.update(jax.grad(loss)(params), opt, params)
    return optax.apply_updates(params, updates), opt

  for _ in range(steps):
    batch = next(stream)
    params, opt = step(params, opt, batch["image"], batch["label"])
  stream.close()

  @jax.jit
  def predict(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits, features = model.apply(params, scale(image))
    return jnp.argmax(logits, -1), features

  right, real = [], []
  for batch, mask in dataset.batches(batch_size):
    found, features = map(np.asarray, predict(batch["image"]))
    right.append((found == batch["label"])[mask > 0])
    real.append(features[mask > 0])
  return Judge(predict, float(np.concatenate(right).mean()), np.concatenate(real))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
  """Fréchet distance of two sets of features [N, F] and [M, F] as normal distributions (arXiv
  1706.08500, eq. 6); larger for fewer of either.
  """
  a, b = (x.astype(np.float64) for x in (a, b))
  of_a, of_b = np.cov(a.T), np.cov(b.T)
  values, vectors = np.linalg.eigh(of_a)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ of_b @ root), 0)).sum()
  return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(of_a) + np.trace(of_b) - 2 * cross)
