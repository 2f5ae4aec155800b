"""Every condition keeps the contract: tokens within its rows, in its order, dropped as a whole."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build, pictures
from vqjax.conditions import Context, layout
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.signals.layout import Signal
from vqjax.tasks._prefix import Prefix

RNG = np.random.default_rng(0)
SPEC = {
  "label": jax.ShapeDtypeStruct((4,), "int32"),
  "layout": jax.ShapeDtypeStruct((4, 16, 16), "uint8"),
}
BATCH = {
  "label": RNG.integers(0, 3, 4).astype(np.int32),
  "layout": RNG.integers(0, 2, (4, 16, 16)).astype(np.uint8),
}
LEVELS = (Codes((2, 2), 10), Codes((4, 4), 10))
COARSER = (RNG.integers(0, 10, (4, 2, 2)),)
FIELDS = {
  "label": dict(classes=3),
  "layout": dict(classes=2, grid=(4, 2)),
  "layout_codes": dict(tokenizer="maps"),
  "coarser": dict(prior="top"),
}


class Maps:
  """A tokenizer of label maps whose codes are the corners of 4 x 4 cells."""

  levels = (Codes((4, 4), 2),)
  info = types.SimpleNamespace(signal=Signal(classes=2), size=(16, 16))

  def levels_of(self, frozen, batch):
    return (batch["layout"][:, ::4, ::4].astype(jnp.int32),)


def context(spec=SPEC, level=1):
  return Context(spec, LEVELS, level, lambda workdir, field, option: Maps())


def make(name):
  return build.make(build.member("conditions", name), FIELDS[name])


@pytest.mark.parametrize("name", build.names("conditions"))
def test_contract(name, tmp_path):
  condition = make(name)
  lead = condition.bind(context())
  values = COARSER if name == "coarser" else lead.prepare(BATCH[condition.field], (1, 1))
  tokens = lead.tokens(jax.tree.map(jnp.asarray, values), None)
  assert len(tokens) == len(lead.parts)
  for part, found in zip(lead.parts, tokens):
    assert found.shape == (4, *part.grid) and jnp.issubdtype(found.dtype, jnp.integer)
    assert 0 <= found.min() and found.max() < part.rows
  if lead.pictures:
    assert lead.pictures(values).shape[0] == 4
  if not condition.given:
    return
  with pytest.raises(UserError, match=f"the data have no {condition.field}; they yield image"):
    condition.bind(context({"image": None}))
  one = BATCH[condition.field][0]
  np.testing.assert_array_equal(lead.given(one, 3), np.stack([one] * 3))
  for bad, message in [
    (np.zeros(one.shape) + 0.5, "give integers"),
    (np.zeros((2, *one.shape), int), "2 given for 3"),
  ]:
    with pytest.raises(UserError, match=f"{condition.field}: .*{message}"):
      lead.given(bad, 3)
  with pytest.raises(UserError, match=f"{condition.field}: 99 is outside"):
    lead.prepare(np.full_like(BATCH[condition.field], 99), (1, 1))
  shape, dtype = condition.spec({"size": 16, "channels": 3})
  assert shape == one.shape and np.dtype(dtype) == BATCH[condition.field].dtype


def test_parsing():
  np.testing.assert_array_equal(make("label").parse("2,0", (16, 16)), [2, 0])
  np.testing.assert_array_equal(make("label").parse("all", (16, 16)), [0, 1, 2])
  with pytest.raises(UserError, match="--label=dress: is no class"):
    make("label").parse("dress", (16, 16))


@pytest.mark.parametrize("name", ["layout", "layout_codes"])
def test_a_map_of_another_size_is_resized_by_nearest_neighbours(name, tmp_path):
  maps = np.zeros((48, 96), np.uint8)
  maps[:, 48:] = 1
  pictures.save(tmp_path / "map.png", maps[..., None])
  (parsed,) = make(name).parse(str(tmp_path / "map.png"), (16, 16))
  np.testing.assert_array_equal(parsed, [[0] * 8 + [1] * 8] * 16)


def test_layouts_reduce_to_the_most_frequent_class():
  maps = np.array([[[0, 0, 1, 1], [0, 2, 1, 2], [2, 2, 0, 1], [2, 1, 1, 0]]])
  np.testing.assert_array_equal(layout.reduced(maps, (2, 2), 3), [[[0, 1], [2, 0]]])
  with pytest.raises(UserError, match="4 x 4 is not a multiple of config.condition.layout.grid"):
    layout.reduced(maps, (3, 3), 3)


def test_prefix_order_offsets_and_dropping():
  config = dict(coarser=FIELDS["coarser"], layout=dict(classes=2, grid=(1, 2)), drop=0.5)
  prefix = Prefix(config | dict(label=FIELDS["label"]), 11, context())
  values = {
    "label": jnp.array([2]),
    "layout": jnp.array([[[0, 1]]]),
    "coarser": (jnp.array([[[1, 2], [3, 9]]]),),
  }
  tokens = prefix.tokens(values, {}, 1)
  np.testing.assert_array_equal(tokens, [[13, 14, 15, 17, 18, 19, 25]])
  assert prefix.length == 7 and prefix.rows == 26 and prefix.grid == (2, 2)
  without = prefix.tokens({k: v for k, v in values.items() if k != "layout"}, {}, 1)
  np.testing.assert_array_equal(without, [[13, -1, -1, 17, 18, 19, 25]])
  dropped = np.asarray(prefix.dropped(jax.random.key(0), jnp.ones((400, 7), jnp.int32)) == -1)
  assert (dropped.all(1) == dropped.any(1)).all() and 0.4 < dropped[:, 0].mean() < 0.6
  assert [part.shape for part in prefix.parts({}, {}, 2, (3, 1))] == [(2, 1), (2, 3, 2), (2, 6, 2)]


@pytest.mark.parametrize(
  "config, level, message",
  [
    (
      dict(layout=FIELDS["layout"], layout_codes=FIELDS["layout_codes"]),
      0,
      "reads the data's layout",
    ),
    (dict(drop=1.0), 0, "config.condition: drop: 1.0 is outside"),
    (dict(coarser={}), 0, "no level above config.level=0"),
    (dict(label=dict(classes=0)), 0, "config.condition.label: classes: 0"),
    (dict(label=dict()), 0, "config.condition.label: needs classes"),
    (dict(layout=dict(classes=2, grid=(0, 2))), 0, r"grid: \(0, 2\) is no height and width"),
  ],
)
def test_what_does_not_fit_is_one_line(config, level, message):
  with pytest.raises(UserError, match=message) as e:
    Prefix(config, 0, context(level=level))
  assert "\n" not in str(e.value)
