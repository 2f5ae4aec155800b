"""Sound: its rate comes from the ops, pictures show what is heard, files of any rate are opened."""

import numpy as np
import pytest

from vqjax import build, signals, sounds
from vqjax.errors import UserError
from vqjax.signals import audio
from vqjax.tasks import autoencode

RATE = 8_000


def sine(hertz, seconds=0.5, rate=RATE, peak=0.5):
  time = np.arange(round(seconds * rate)) / rate
  return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[:, None]


def test_the_rate_is_the_ops_and_nobody_elses():
  assert build.build("signals", {"name": "audio"}, "config.signal", rate=RATE).rate == RATE
  with pytest.raises(UserError, match="set by the program"):
    build.filled("signals", {"name": "audio", "rate": 3}, "config.signal")


@pytest.mark.parametrize(
  "signal, ops", [("audio", "image"), ("image", "video"), ("layout", "audio")]
)
def test_ops_of_another_signal_are_named(signal, ops):
  config = {"signal": {"name": signal, "classes": 2}, "ops": {"name": ops}}
  with pytest.raises(UserError, match=f"'{ops}' is for .* not for the {signal} that"):
    autoencode.signal_of(config)


def test_integers_are_scaled_and_loud_sound_passes():
  signal = audio.Signal(RATE)
  given = signal.given(np.int16([[[-32768], [16384]]]), (1, 2, 1))
  np.testing.assert_array_equal(given[0, :, 0], [-1.0, 0.5])
  loud = np.full((1, 4, 1), 1.5, np.float32)
  np.testing.assert_array_equal(signal.given(loud, loud.shape), loud)


def test_pictures_show_where_the_sound_is():
  """A wave to the left of a spectrogram, whose brightest row lies where the tone does."""
  signal = audio.Signal(RATE)
  low, high, silent = (
    signal.pictures(x[None])[0, ..., 0] for x in (sine(300), sine(3_000), sine(0))
  )
  width = (low.shape[1] - 2) // 2
  rows = [np.argmax(p[:, width + 2 :].mean(1)) for p in (low, high)]
  assert rows[0] > rows[1], "high notes are on top"
  assert silent[:, width + 2 :].max() == 0
  # Half of full scale covers half of the height; silence is a line.
  assert abs((low[:, width // 2] == 0).sum() / len(low) - 0.5) < 0.1
  assert (silent[:, width // 2] == 0).sum() == 1


def test_several_sounds_are_numbered_files_and_what_is_hidden_is_silent(tmp_path):
  signal, values = audio.Signal(RATE), np.stack([sine(300), sine(500), sine(700)])
  hidden = np.zeros(values.shape[:2], bool)
  hidden[:, 2_000:] = True
  rows = [signals.Row(values[:2]), signals.Row(values[2:], hidden[2:])]
  written = signal.save_page(tmp_path / "a.flac", rows)
  assert [f.name for f in written] == ["a_0.flac", "a_1.flac", "a_2.flac"]
  opened = signal.open(written[2], (1, 1))
  np.testing.assert_allclose(opened[:2_000], values[2, :2_000], atol=1e-4)
  assert not opened[2_000:].any()
  assert signal.save_page(tmp_path / "b.wav", [signals.Row(values[:1])]) == [tmp_path / "b.wav"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_files_of_another_rate_and_channels_are_the_same_sound(tmp_path, suffix):
  file, rate = tmp_path / f"a{suffix}", 44_100
  stereo = np.repeat(sine(440, rate=rate), 2, axis=1)
  sounds.save(file, stereo, rate)
  opened = audio.Signal(RATE).open(file, (1, 1))
  assert opened.shape == (4_000, 1) and opened.dtype == np.float32
  inside = slice(400, 3_600)
  error = np.abs(opened - sine(440))[inside].max()
  assert error < (0.05 if suffix == ".ogg" else 0.005)


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "cannot be read as sound"),
    (b"RIFF....WAVEfmt broken", "cannot be read as sound"),
    ("nan", "not finite"),
    ("empty", "holds no sample"),
    ("many", "has 3 channels, not 2"),
  ],
)
def test_a_broken_file_is_one_line(tmp_path, content, message):
  import soundfile

  file = tmp_path / "a.wav"
  if isinstance(content, bytes):
    file.write_bytes(content)
  else:
    bad = {"nan": np.full((9, 2), np.nan), "empty": np.zeros((0, 2)), "many": np.zeros((9, 3))}
    soundfile.write(file, bad[content], RATE, subtype="FLOAT")
  with pytest.raises(UserError, match=message) as e:
    audio.Signal(RATE).open(file, (9, 2))
  assert "\n" not in str(e.value) and "a.wav" in str(e.value)


def test_what_is_too_loud_is_clipped_in_files():
  assert sounds.to_int16(np.float32([[-3.0], [0.0], [3.0]])).tolist() == [[-32767], [0], [32767]]
