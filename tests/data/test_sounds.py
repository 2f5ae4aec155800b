"""Sound as data: folders of files, drawn tones, and the ops on both."""

import numpy as np
import pytest

from vqjax import build, data, sounds
from vqjax.data.ops import generator
from vqjax.data.ops.audio import Ops
from vqjax.data.sources import tones
from vqjax.errors import UserError

RATE = 8_000


def noise(length, channels=1, seed=0):
  return np.random.default_rng(seed).uniform(-0.5, 0.5, (length, channels)).astype(np.float32)


def made(ops, samples, rng=None, rate=RATE):
  out = ops.apply({"audio": samples, "rate": np.int32(rate), "name": "a", "label": 3}, rng)
  assert out.keys() == {"audio", "name", "label"} and out["audio"].dtype == np.float32
  return out["audio"]


def test_crops():
  x = noise(100)
  np.testing.assert_array_equal(made(Ops(RATE, 40, crop="start"), x), x[:40])
  np.testing.assert_array_equal(made(Ops(RATE, 40), x), x[30:70])
  padded = made(Ops(RATE, 120), x)
  np.testing.assert_array_equal(padded, np.concatenate([x, np.zeros((20, 1))]))
  starts = set()
  for n in range(60):
    part = made(Ops(RATE, 95), x, generator(0, n))
    (start,) = (i for i in range(6) if (x[i : i + 95] == part).all())
    starts.add(start)
  assert starts == set(range(6))


def test_a_crop_is_resampled_as_the_whole_is():
  """Up to the edges of what is cut, where the resampler sees less."""
  time = np.arange(88_200) / 44_100
  x = (0.5 * np.sin(2 * np.pi * 440 * time))[:, None].astype(np.float32)
  whole = sounds.resampled(x, 44_100, RATE)
  part = made(Ops(RATE, 4_000), x, rate=44_100)
  starts = range(5_950, 6_050)
  assert min(np.abs(whole[i : i + 4_000] - part).max() for i in starts) < 0.02


def test_loudness_and_channels():
  x = 0.01 * noise(100)
  assert abs(np.abs(made(Ops(RATE, peak=0.9), x)).max() - 0.9) < 1e-6
  silence = np.zeros((100, 1), np.float32)
  np.testing.assert_array_equal(made(Ops(RATE, peak=0.9), silence), silence)
  gains = [made(Ops(RATE, gain=(-6.0, 6.0)), x, generator(0, n))[5, 0] / x[5, 0] for n in range(99)]
  assert 0.5 < min(gains) < 0.6 and 1.8 < max(gains) < 2.0
  np.testing.assert_array_equal(made(Ops(RATE, gain=(3.0, 3.0)), x), x)  # never in evaluation
  stereo = noise(100, 2)
  np.testing.assert_allclose(made(Ops(RATE, channels=1), stereo)[:, 0], stereo.mean(-1), atol=1e-7)
  assert made(Ops(RATE, channels=2), x).shape == (100, 2)


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(rate=0), "rate: 0"),
    (dict(length=0), "length: 0"),
    (dict(peak=2.0), "peak: 2.0"),
    (dict(gain=(1.0,)), "gain: "),
    (dict(gain=(3.0, 1.0)), "gain: "),
    (dict(crop="centre"), r"config\.ops\(audio\)\.crop"),
  ],
)
def test_bad_ops(fields, message):
  with pytest.raises(UserError, match=message):
    build.build("data.ops", dict(name="audio") | fields, "config.ops")


def test_samples_that_are_not_finite_are_named():
  with pytest.raises(UserError, match="a: has samples that are not finite"):
    made(Ops(RATE, 10), np.full((20, 1), np.nan, np.float32))


@pytest.fixture
def folder(tmp_path):
  for split in ("train", "test"):
    for label in ("no", "yes"):
      (tmp_path / split / label).mkdir(parents=True)
      for i, suffix in enumerate((".wav", ".flac", ".ogg")):
        file = tmp_path / split / label / f"{i}{suffix}"
        sounds.save(file, noise(500 + 100 * i, 1 + i % 2, i), RATE)
        file.with_suffix(".txt").write_text(f"{label} {i}")
  return tmp_path


def test_a_folder_of_sound(folder):
  config = data.resolve(str(folder))
  assert config == {"name": "sounds", "path": str(folder)}
  dataset = data.Dataset(config, dict(name="audio", rate=4_000, length=200))
  assert dataset.class_names == ("no", "yes") and dataset.size("train") == dataset.size() == 6
  ((batch, mask),) = dataset.batches(6)
  assert batch["audio"].shape == (6, 200, 1) and mask.all()
  assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1] and batch["text"][4] == "yes 1"
  first, again = (next(dataset.train(4, seed=0, step=3))["audio"] for _ in range(2))
  np.testing.assert_array_equal(first, again)


def test_sounds_of_several_lengths_are_named(folder):
  dataset = data.Dataset(data.resolve(str(folder)), dict(name="audio", rate=RATE))
  with pytest.raises(UserError, match=r"samples in 1 channel.*others are.*config\.ops\.length"):
    list(dataset.batches(6))


def test_a_damaged_file_is_left_out_and_many_are_an_error(folder, caplog):
  for i in range(60):
    sounds.save(folder / "train" / "no" / f"more{i}.wav", noise(50), RATE)
  (folder / "train" / "no" / "0.wav").write_bytes(b"no sound")
  dataset = data.Dataset(data.resolve(str(folder)), dict(name="audio", rate=RATE, length=100))
  ((batch, mask),) = dataset.batches(66, split="train")
  assert mask.sum() == 65 and "0.wav: cannot be read" in caplog.text


def test_tones_are_a_pure_function_of_the_index():
  source = tones.Source(rate=4_000, seconds=0.2, channels=2, num_train=60)
  examples = source.examples("train")
  one, again = examples[3], tones.Source(rate=4_000, seconds=0.2, channels=2).examples("train")[3]
  np.testing.assert_array_equal(one["audio"], again["audio"])
  assert one["audio"].shape == (800, 2) and np.abs(one["audio"]).max() < 1
  assert (one["audio"] != source.examples("eval")[3]["audio"]).any()
  assert {int(examples[i]["label"]) for i in range(60)} == set(range(len(source.class_names())))
  assert all(np.abs(examples[i]["audio"]).max() > 0.01 for i in range(30))
