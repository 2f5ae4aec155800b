"""A world small enough to enumerate: a random joint distribution over 4 codes of 3 kinds, and
networks that know it.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.latents import Codes
from vqjax.schemes import Network

K, L = 3, 4


class World:
  """`latent` are its codes; `joint` [81] over `grids` [81, 4]; `states` [256, 4] are all inputs,
  with the mask 3; networks look tables up.
  """

  def __init__(self, chi2):
    self.chi2 = chi2
    self.grids = np.array(list(itertools.product(range(K), repeat=L)))
    self.states = np.array(list(itertools.product(range(K + 1), repeat=L)))
    self.latent = Codes((L,), K)
    self.joint = np.random.default_rng(0).dirichlet(np.ones(len(self.grids)))

  def index(self, ids):
    """Number of each row of ids [..., 4] in `states`."""
    return sum(ids[..., i] * (K + 1) ** (L - 1 - i) for i in range(L))

  def conditionals(self, weigh):
    """Table [256, 4, 3] of p(x_i = v | state); weigh(i, state) is the evidence of grids [81, 4] for
    place i.
    """
    table = np.zeros((len(self.states), L, K))
    for n, state in enumerate(self.states):
      for i in range(L):
        evidence = self.joint * weigh(i, state)
        table[n, i] = [evidence[self.grids[:, i] == v].sum() for v in range(K)]
    total = table.sum(-1, keepdims=True)
    return np.where(total > 0, table / np.maximum(total, 1e-300), 1 / K)

  def causal(self):
    return self.conditionals(lambda i, state: (self.grids[:, :i] == state[:i]).all(1))

  def masked(self):
    def weigh(i, state):
      seen = (state < K) & (np.arange(L) != i)
      return (self.grids[:, seen] == state[seen]).all(1)

    return self.conditionals(weigh)

  def lookup(self, table):
    """full() of a table [256, 4, V] of probabilities, or [T, 256, 4, V] with time t = 1 .. T."""
    logs = jnp.asarray(np.log(np.maximum(table, 1e-37)), jnp.float32)

    def full(ids_BL, time_B=None, done=None):
      at = self.index(ids_BL)
      return logs[at] if logs.ndim == 3 else logs[jnp.round(time_B * len(logs)).astype(int) - 1, at]

    return full

  def cached(self, batch):
    """A causal network with a real cache: the joint probabilities of the grids that are still
    possible, [B, 81].
    """
    codes = jnp.asarray(self.grids)

    def predict(index, left_BX):
      return jnp.log(
        left_BX @ (codes[:, index][:, None] == jnp.arange(K)[None]).astype(jnp.float32) + 1e-37
      )[:, None]

    def start():
      left_BX = jnp.tile(jnp.asarray(self.joint, jnp.float32)[None], (batch, 1))
      return predict(0, left_BX), left_BX

    def step(ids_BJ, index, left_BX):
      left_BX = jnp.where(codes[:, index][None] == ids_BJ, left_BX, 0)
      return predict(index + 1, left_BX), left_BX

    return Network(self.lookup(self.causal()), start, step)

  def check(self, ids, expected):
    """Chi-square test of sampled ids [N, 4] against probabilities [81] of `grids`."""
    ids = np.asarray(ids)
    assert ids.min() >= 0 and ids.max() < K
    counts = np.bincount(ids @ (K ** np.arange(L)[::-1]), minlength=len(self.grids))
    self.chi2(counts, expected)


@pytest.fixture(scope="session")
def world(chi2):
  return World(chi2)
