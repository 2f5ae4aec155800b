"""Every signal keeps the contract: read and written on the device, opened and saved, in one line
refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build, pictures, signals
from vqjax.data.ops import image as ops
from vqjax.errors import UserError

FIELDS = {"audio": {}, "image": {}, "layout": {"classes": 4}, "video": {}}
RNG = np.random.default_rng(0)
VALUES = {
  "audio": (RNG.integers(-32767, 32768, (2, 600, 2)) / 32767).astype(np.float32),
  "image": RNG.integers(0, 256, (2, 8, 12, 3)).astype(np.uint8),
  "layout": RNG.integers(0, 4, (2, 8, 12)).astype(np.uint8),
  "video": RNG.integers(0, 256, (2, 5, 8, 12, 3)).astype(np.uint8),
}


def make(name):
  return build.build("signals", {"name": name} | FIELDS[name], rate=8_000)


@pytest.mark.parametrize("name", build.names("signals"))
def test_contract(name, tmp_path):
  signal, values = make(name), VALUES[name]
  shape, dtype = signal.spec({"size": 16, "channels": 3, "frames": 4, "length": 16})
  assert len(shape) >= signal.axes and np.dtype(dtype) == values.dtype
  channels = signal.channels(values.shape[1:])
  x = signal.read(jnp.asarray(values))
  assert x.shape == (*values.shape[: 1 + signal.axes], channels) and x.dtype == jnp.float32
  # What the model would have to return is what it read: nothing is lost on the way.
  back = signal.finished(signal.write(x))
  np.testing.assert_array_equal(back, values)
  np.testing.assert_array_equal(signal.given(values, values.shape), values)
  assert signal.prepare(values) is values
  shown = signal.pictures(values)
  assert shown.dtype == np.uint8 and shown.ndim == 4 and shown.shape[-1] in (1, 3)
  hidden = np.zeros(values.shape[: 1 + signal.axes], bool)
  np.testing.assert_array_equal(signal.pictures(values, hidden), shown)
  hidden[0] = True
  greyed = signal.pictures(values, hidden)
  assert (greyed[0] != shown[0]).any() and (greyed[1] == shown[1]).all()
  unit, amount = signal.amount(shape)
  assert unit.isidentifier() and amount > 0 and signal.noun
  assert set(signal.judges) <= {"discriminator", "perceptual"}
  assert set(signal.measures) <= set(build.names("evaluators"))
  file = tmp_path / f"a{signal.suffix}"
  signal.save(file, values[0])
  assert signal.suffix in signal.suffixes and signal.suffix_for(file) == signal.suffix
  # Sound is kept in 16 bits, whose fullest is 1 here and 32768/32767 there.
  opened = signal.open(file, values.shape[1:])
  np.testing.assert_allclose(opened, values[0], atol=1e-4 if values.dtype == np.float32 else 0)
  size = tuple(3 + i for i in range(signal.axes))
  assert signal.open(file, values.shape[1:], size).shape[: signal.axes] == size


@pytest.mark.parametrize("name", build.names("signals"))
def test_pages(name, tmp_path):
  """A page in every format is a file or several; a picture of it has every example."""
  signal, values = make(name), VALUES[name]
  rows = [signals.Row(values), signals.Row(values, None, ["a", "b"])]
  for suffix in {signal.suffix, ".png"}:
    file = tmp_path / f"page{suffix}"
    signal.check_page(file)
    written = signal.save_page(file, rows, together=True)
    assert written and all(f.stat().st_size for f in written)
  shown = signal.pictures(values)
  page = signals.page(signal, [signals.Row(values)])
  assert page.shape[0] * page.shape[1] >= len(values) * shown.shape[1] * shown.shape[2]
  with pytest.raises(UserError, match="no .*format; end the name in"):
    signal.check_page(tmp_path / "page.txt")


@pytest.mark.parametrize("name", build.names("signals"))
def test_likelihoods_are_least_where_the_signal_is(name):
  signal = make(name)
  x = signal.read(jnp.asarray(VALUES[name]))
  for likelihood in signal.likelihoods.values():
    output = jnp.concatenate([x * 3] * likelihood.outputs, -1)
    assert likelihood.mean(output).shape == x.shape
    assert likelihood.loss(output, x).shape == ()
    grads = jax.grad(lambda o: likelihood.loss(o, x))(output)
    assert np.isfinite(grads).all() and np.any(grads)


@pytest.mark.parametrize(
  "name, values, message",
  [
    ("audio", np.zeros((2, 8)), r"audio: shape .* is not \[B, T, 2\]"),
    ("audio", np.zeros((0, 8, 2)), "audio: shape"),
    ("audio", np.zeros((2, 8, 2), int), "neither int16 nor float"),
    ("audio", np.full((2, 8, 2), 1e4), "samples reach 1e.04"),
    ("audio", np.full((2, 8, 2), np.nan), "samples reach nan"),
    ("image", np.zeros((2, 8, 8, 1), np.uint8), r"images: shape .* is not \[B, H, W, 3\]"),
    ("image", np.zeros((0, 8, 8, 3), np.uint8), "images: none are given"),
    ("image", np.zeros((2, 8, 8, 3), int), "neither uint8 nor float"),
    ("image", np.full((2, 8, 8, 3), 255.0), "floats reach 255"),
    ("image", np.full((2, 8, 8, 3), np.nan), "floats reach nan"),
    ("video", np.zeros((2, 4, 8, 8, 1), np.uint8), r"videos: shape .* is not \[B, T, H, W, 3\]"),
    ("video", np.full((2, 4, 8, 8, 3), np.nan), "videos: floats reach nan"),
    ("layout", np.zeros((2, 8, 8, 1), np.uint8), "this run was trained on label maps"),
    ("layout", np.zeros((2, 8, 8)), "this run was trained on label maps"),
    ("layout", np.full((2, 8, 8), 4), "layout: 4 is outside 0 to 3, the classes of config.signal"),
  ],
)
def test_what_a_caller_gives_is_checked(name, values, message):
  with pytest.raises(UserError, match=message) as e:
    make(name).given(values, VALUES[name].shape)
  assert "\n" not in str(e.value)


def test_fields_and_sizes_are_checked():
  for classes in (1, 257):
    with pytest.raises(UserError, match=f"classes: {classes}"):
      build.build("signals", {"name": "layout", "classes": classes})
  with pytest.raises(UserError, match="config.ops.size: is not set"):
    make("image").spec({"size": None, "channels": 3})


def test_label_maps_are_painted_as_pascal_voc_does():
  shown = make("layout").pictures(np.array([[[0, 1, 2, 3]]]))
  voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
  np.testing.assert_array_equal(shown[0, 0], voc)


def test_an_opened_picture_is_cut_as_evaluation_data_are(tmp_path):
  wide = RNG.integers(0, 256, (33, 50, 3)).astype(np.uint8)
  pictures.save(tmp_path / "a.png", wide)
  opened = make("image").open(tmp_path / "a.png", (28, 28, 1), (28, 28))
  assert opened.shape == (28, 28, 1)
  training = ops.Ops(size=28, channels=1).apply({"image": wide, "name": "a"})["image"]
  np.testing.assert_array_equal(opened, training)
