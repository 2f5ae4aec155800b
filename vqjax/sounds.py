"""Sound in files and in memory: found, read, resampled, written. Samples are float32 [T, C]
in [-1, 1].

Files are read by soundfile and resampled by soxr, which are imported where they are needed; wav is
written without them.
"""

from __future__ import annotations

import io
import pathlib
import types
import wave

import numpy as np

from vqjax.errors import UserError, reason

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
WRITTEN = (".wav", ".flac", ".ogg", ".mp3")


def _soundfile() -> types.ModuleType:
  try:
    import soundfile
  except (ImportError, OSError) as e:  # OSError: without the library that it wraps
    raise UserError(f"sound files need soundfile ({e}); run pip install soundfile soxr.") from None
  return soundfile


def decode(file: str | pathlib.Path) -> tuple[np.ndarray, int]:
  """(float32 [T, C], its rate) of a file.

  Raises:
    UserError: no sound file, one without a sample, or samples that are not finite.
  """
  soundfile = _soundfile()
  try:
    samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
  except (OSError, RuntimeError, ValueError, TypeError) as e:  # LibsndfileError is a RuntimeError
    raise UserError(f"{file}: cannot be read as sound ({reason(e)}).") from None
  if not len(samples):
    raise UserError(f"{file}: cannot be read as sound (it holds no sample).")
  if not np.isfinite(samples).all():
    raise UserError(f"{file}: has samples that are not finite (NaN or infinite); replace them.")
  return samples, rate


def read(file: str | pathlib.Path, rate: int, channels: int) -> np.ndarray:
  """A whole file at this rate and number of channels. Raises UserError where it cannot be read."""
  samples, own = decode(file)
  return resampled(to_channels(samples, channels, str(file)), own, rate)


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
  """[T, C] at another rate, soxr's high quality: [round(T wanted / rate), C], at least one."""
  if rate == wanted:
    return samples
  try:
    import soxr
  except ImportError as e:
    raise UserError(f"sound at {rate} Hz needs soxr ({e}); run pip install soxr.") from None
  length = max(1, round(len(samples) * wanted / rate))
  made = soxr.resample(samples, rate, wanted, quality="HQ").astype(np.float32, copy=False)
  return fitted(made, length)


def fitted(samples: np.ndarray, length: int) -> np.ndarray:
  """The first `length` samples, with silence behind where there are fewer."""
  missing = length - len(samples)
  return samples[:length] if missing <= 0 else np.pad(samples, ((0, missing), (0, 0)))


def to_channels(samples: np.ndarray, channels: int | None, name: str = "sound") -> np.ndarray:
  """[T, C] -> [T, channels]: one is repeated, many become their mean; None keeps them.

  Raises UserError for other numbers: nobody knows which of five channels are two.
  """
  found = samples.shape[-1]
  if channels in (None, found):
    return samples
  if channels == 1:
    return samples.mean(-1, keepdims=True, dtype=np.float32)
  if found == 1:
    return np.repeat(samples, channels, axis=-1)
  raise UserError(f"{name}: has {found} channels, not {channels}; mix them, or use one channel.")


def encode(samples: np.ndarray, rate: int) -> bytes:
  """A wav file of 16 bits; what is beyond [-1, 1] is clipped."""
  file = io.BytesIO()
  with wave.open(file, "wb") as wav:
    wav.setnchannels(samples.shape[-1])
    wav.setsampwidth(2)
    wav.setframerate(rate)
    wav.writeframes(to_int16(samples).astype("<i2").tobytes())
  return file.getvalue()


def to_int16(samples: np.ndarray) -> np.ndarray:
  return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def check(file: pathlib.Path) -> None:
  """Raises UserError where the suffix names no sound format that can be written."""
  if file.suffix.lower() not in WRITTEN:
    raise UserError(
      f"{file}: {file.suffix or 'no suffix'} is no sound format; end the name in .wav."
    )


def save(file: pathlib.Path, samples: np.ndarray, rate: int) -> None:
  """Writes [T, C]; the suffix names the format. Raises like `check`."""
  check(file)
  file.parent.mkdir(parents=True, exist_ok=True)
  if file.suffix.lower() == ".wav":
    file.write_bytes(encode(samples, rate))
    return
  try:
    _soundfile().write(str(file), np.clip(samples, -1, 1), rate)
  except (OSError, RuntimeError, ValueError, TypeError) as e:
    raise UserError(f"{file}: cannot be written ({reason(e)}); end the name in .wav.") from None
