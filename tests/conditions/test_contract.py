"""Every condition keeps the contract: tokens within its rows, in its order, dropped as a whole."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build, data, pictures
from vqjax.conditions import Context, layout
from vqjax.data.text import Bpe
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
CAPTIONS = ["a red circle", "", "a blue square " * 20, "ünseen 日本 \ud800"]
SPEC["text"], BATCH["text"] = jax.ShapeDtypeStruct((4, 12), "int32"), CAPTIONS
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


@pytest.fixture(scope="module", autouse=True)
def bpe(tmp_path_factory):
  """An encoding of a few captions, for the condition `text`."""
  file = tmp_path_factory.mktemp("bpe") / "bpe.json"
  Bpe.train(["a red circle above a blue square"] * 3, 280).write(file)
  FIELDS["text"] = dict(bpe=str(file), size=300, length=12)
  return str(file)


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
  if not condition.public:
    return
  with pytest.raises(UserError, match=f"the data have no {condition.field}; they yield image"):
    condition.bind(context({"image": None}))
  one = BATCH[condition.field][0]
  np.testing.assert_array_equal(lead.given(one, 3), np.stack([one] * 3))
  if lead.captions:
    assert lead.captions(lead.given(one, 3)) == [one] * 3
  with pytest.raises(UserError, match=f"{condition.field}: 2 given for 3"):
    lead.given(np.stack([one] * 2), 3)
  with pytest.raises(UserError, match=f"{condition.field}: .*give (integers|a string)"):
    lead.given(np.zeros(np.shape(one)) + 0.5, 3)
  shape, dtype = condition.spec({"size": 16, "channels": 3})
  assert shape == values.shape[1:] and np.dtype(dtype) == values.dtype
  if condition.field != "text":
    with pytest.raises(UserError, match=f"{condition.field}: 99 is outside"):
      lead.prepare(np.full_like(BATCH[condition.field], 99), (1, 1))


def test_parsing():
  np.testing.assert_array_equal(make("label").parse("2,0", (16, 16)), [2, 0])
  np.testing.assert_array_equal(make("label").parse("all", (16, 16)), [0, 1, 2])
  with pytest.raises(UserError, match="--label=dress: is no class"):
    make("label").parse("dress", (16, 16))
  assert make("text").parse("a red circle, large", (16, 16)).tolist() == ["a red circle, large"]


def test_captions_as_tokens(bpe, caplog):
  """Padding of its own at each place, cut with a count, an empty one is no missing one."""
  lead = make("text").bind(context())
  ids = lead.prepare(CAPTIONS, ())
  assert "2 of 4 captions are longer than 12" in caplog.text
  tokens = np.asarray(lead.tokens(jnp.asarray(ids), None)[0])
  assert tokens[1].tolist() == list(range(300, 312)) and tokens[2].max() < 300
  assert (tokens[3] < 300).all()  # each byte of what was never seen
  length = int((ids[0] >= 0).sum())
  counted = np.asarray(lead.counted(jnp.asarray(tokens)))
  assert counted.sum(1).tolist() == [length + 1, 1, 12, 12] and counted[0, : length + 1].all()
  assert lead.tokenizer.identity({}) == Bpe.read(bpe, lower=True).identity
  np.testing.assert_array_equal(lead.prepare(["A RED circle"], ())[0], ids[0])
  assert lead.prepare(["x" * 10_000], ()).shape == (1, 12)


def test_predicted_conditions_give_nats(bpe):
  """By hand: a part's own rows alone, what is dropped or padding after the end counts nowhere."""
  text, context_ = dict(FIELDS["text"], size=280, length=3, predicted=0.25), context(level=0)
  maps = dict(classes=2, grid=(1, 2))
  prefix = Prefix(dict(layout=maps, label=FIELDS["label"], text=text), 11, context_)
  assert prefix.predicted == {"text": 0.25} and prefix.predicted_rows == prefix.rows - 11 == 288
  values = dict(
    label=jnp.array([1, 2]), text=jnp.array([[5, -1, -1]] * 2), layout=jnp.ones((2, 1, 2), int)
  )
  tokens = prefix.tokens(values, {}, 2)
  np.testing.assert_array_equal(tokens[0], [12, 14 + 5, 14 + 281, 14 + 282, 298, 298])
  logits = jnp.asarray(RNG.standard_normal((2, 6, 288)))
  nats, counted = prefix.nats(logits, tokens.at[1].set(-1))["text"]
  np.testing.assert_array_equal(counted, [[1, 1, 0], [0, 0, 0]])
  own = np.asarray(logits, np.float64)[0, 1:4, 3:286]
  by_hand = np.log(np.exp(own).sum(-1)) - own[range(3), [5, 281, 282]]
  np.testing.assert_allclose(nats[0], by_hand, rtol=1e-5)
  assert not Prefix(dict(text=text | dict(predicted=0.0)), 11, context_).predicted_rows


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
    (dict(drop=1.0), 0, "config.condition: drop: 1.0 is out of range"),
    (dict(coarser={}), 0, "no level above config.level=0"),
    (dict(label=dict(classes=0)), 0, "config.condition.label: classes: 0"),
    (dict(label=dict()), 0, "config.condition.label: needs classes"),
    (dict(text=dict(size=99)), 0, "config.condition.text: size: 99 is too small"),
    (dict(text=dict(length=0)), 0, "config.condition.text: length: 0"),
    (dict(text=dict(predicted=1.0)), 0, "config.condition.text: predicted: 1.0 is out of range"),
    (dict(layout=dict(classes=2, grid=(0, 2))), 0, r"grid: \(0, 2\) is no height and width"),
  ],
)
def test_what_does_not_fit_is_one_line(config, level, message):
  with pytest.raises(UserError, match=message) as e:
    Prefix(config, 0, context(level=level))
  assert "\n" not in str(e.value)


def test_labels_are_held_against_the_classes_before_the_first_step(tmp_path):
  images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 7
  np.savez(tmp_path / "data.npz", images=images, labels=labels)
  dataset = data.Dataset(data.resolve(str(tmp_path / "data.npz")))
  label = build.member("conditions", "label")
  assert label.begin(dict(classes=7), dataset, None) == dict(classes=7)
  with pytest.raises(UserError, match="label: 6 is outside 0 to 5, the classes of config.cond"):
    label.begin(dict(classes=6), dataset, None)
