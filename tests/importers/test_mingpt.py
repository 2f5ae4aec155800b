"""taming's minGPT against its own values (logits, entropy, greedy continuation), and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError
from vqjax.importers import _mingpt as mingpt
from vqjax.latents import Codes

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state(golden):
  return torch.load(golden / "taming_mingpt.ckpt", map_location="cpu", weights_only=True)[
    "state_dict"
  ]


@pytest.fixture(scope="module")
def expected(golden):
  return dict(np.load(golden / "taming_mingpt.npz"))


@pytest.fixture(scope="module")
def imported(state, golden):
  """(model, variables, codes): the first token of a sequence is the condition, shown as token codes
  + c.
  """
  heads = json.loads((golden / "meta_models.json").read_text())["taming_mingpt"]["n_head"]
  network = mingpt.read(state, heads=heads)
  given = dict(latent=Codes(network.grid, network.codes), rows=network.rows)
  model = build.build("priors", network.fields, max_prefix=network.prefix, causal=True, **given)
  return model, {"params": jax.tree.map(jnp.asarray, network.params)}, network.codes


def test_params_are_exactly_the_model(imported):
  model, variables, _ = imported
  ids = jnp.zeros((1, 33), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)


def test_logits_and_cross_entropy(imported, expected):
  model, variables, codes = imported
  tokens = jnp.asarray(expected["ids"], jnp.int32)
  following = jnp.pad(
    tokens[:, 1:], ((0, 0), (0, 1))
  )  # What logits 30 are about is not given, and nobody sees it.
  logits = jax.jit(lambda v: model.apply(v, following, codes + tokens[:, :1], train=False))(
    variables
  )
  np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
  nats = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
  np.testing.assert_allclose(nats.mean(), expected["cross_entropy"], rtol=1e-5)


def test_greedy_continuation_with_the_cache(imported, expected):
  model, variables, codes = imported
  tokens = expected["greedy_from_first_5"].astype(np.int32)
  given, length = 5, tokens.shape[1]
  decode = jax.jit(lambda v, i, n, c: model.apply(v, i, n, c, method="decode"))
  prefill = jax.jit(lambda v, i, c: model.apply(v, i, c, method="prefill"))
  logits, cache = prefill(variables, codes + tokens[:, :1], model.init_cache(len(tokens), 1))
  drawn = [tokens[:, 0]]
  for position in range(1, length):
    drawn.append(tokens[:, position] if position < given else np.asarray(logits[:, 0].argmax(-1)))
    logits, cache = decode(variables, drawn[-1].astype(np.int32)[:, None], position - 1, cache)
  np.testing.assert_array_equal(np.stack(drawn, axis=1), tokens)


def test_what_the_tensors_tell(state):
  network = mingpt.read(state, heads=4, grid=(4, 4), prefix=16, codes=40, values=50)
  assert network.fields == dict(name="transformer", layers=2, width=32, heads=4, hidden=128)
  assert network[2:] == (40, 90, (4, 4), 16)
  params, theirs = network.params, state["transformer.tok_emb.weight"]
  assert params["embed"]["table"].shape == (90, 32) and params["position_table"].shape == (31, 32)
  np.testing.assert_array_equal(params["embed"]["table"][40:], theirs[:50])
  assert mingpt.read(state, heads=4).rows == 2 * 96
  # 33 places: one is left unused.
  assert mingpt.read(state, heads=4, prefix=17).grid == (4, 4)


def without(name):
  return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize("change, options, message", [
    (without("transformer.blocks.1.ln1.bias"), {}, "'transformer.blocks.1.ln1.bias' is missing"),
    (without("transformer.tok_emb.weight"), {}, "'transformer.tok_emb.weight' is missing"),
    (lambda s: s | {"transformer.ex": torch.zeros(1)}, {}, "unexpected tensor 'transformer.ex'"),
    (lambda s: s | {"transformer.ln_f.bias": torch.zeros(9)}, {}, r"ln_f.bias' has shape \(9,\)"),
    (lambda s: s | {"transformer.blocks.0.attn.mask": torch.ones(1, 1, 33, 33)}, {}, "not causal"),
    (dict, dict(heads=5), "heads: 5 does not divide"),
    (dict, dict(grid=(8, 8)), r"grid: \(8, 8\) after 1 .* block size 33"),
    (dict, dict(prefix=0), "prefix: 0"),
    (dict, dict(codes=97), "codes: 97 is not in 1 .. 96"),
  (dict, dict(values=97), "--option classes: 97 of the condition is not in 1 .. 96"),
])  # fmt: skip
def test_refuses(state, change, options, message):
  with pytest.raises(UserError, match=message):
    mingpt.read(change(state), **(dict(heads=4) | options))
