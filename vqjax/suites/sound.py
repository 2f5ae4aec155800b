"""A codec of sound beside Opus and mp3: python -m vqjax.bench --suite=sound --workdir=CODEC
[--data=PATH] [--prior=WORKDIR] [--examples=300]

Held-out sounds of the codec's data through the codec, with all its codebooks and with the first of
them, and through Opus and mp3 as soundfile has them, at several rates: SI-SDR, mel distance and
bits per second. The sounds are one stream for Opus and mp3, so that their headers count once, and
their delay is taken off. Opus and mp3 code 8 kHz and more alike.

With --prior, whose data have classes: a small classifier of log-mel spectrograms, trained on the
real training sounds as the prior's config cuts them, says on how many real held-out ones it is
right, on how many of them as the codec gives them back, and how many of --samples samples of each
class it takes for that class.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vqjax import cli, files
from vqjax.errors import UserError
from vqjax.nn import spectra

_LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)  # soundfile's compression levels


class Classifier(nn.Module):
  """Of log-mel spectrograms [B, F, M]."""

  classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = x[..., None]
    for width in (16, 32, 64):
      x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
    x = nn.Dropout(0.3, deterministic=not train)(x.reshape(x.shape[0], -1))
    return nn.Dense(self.classes)(x)


def features(audio: jax.Array, rate: int) -> jax.Array:
  """[B, T, C] -> [B, F, 40]: log10 mel magnitudes of about 30 ms, less their mean: loudness tells
  nothing.
  """
  window = 2 ** round(np.log2(rate * 0.03))
  mel = spectra.mel(audio.mean(-1, keepdims=True), rate, window, 40)[:, 0]
  logs = jnp.log10(jnp.maximum(mel, 1e-4))
  return logs - logs.mean((1, 2), keepdims=True)


def train_classifier(
  dataset: Any, rate: int, classes: int, steps: int = 600, batch_size: int = 64
) -> Any:
  """(predict(audio) -> classes, its accuracy on the held-out sounds)."""
  model, tx = Classifier(classes), optax.adamw(optax.cosine_decay_schedule(2e-3, steps))
  stream = dataset.train(batch_size, seed=1)
  first = features(jnp.asarray(next(stream)["audio"]), rate)
  params = model.init(jax.random.key(0), first, False)
  opt = tx.init(params)

  @jax.jit
  def step(params: Any, opt: Any, audio: jax.Array, label: jax.Array, key: jax.Array) -> Any:
    shift = jax.random.randint(key, (), 0, rate // 10)
    x = features(jnp.roll(audio, shift, axis=1), rate)

    def loss(params: Any) -> jax.Array:
      logits = model.apply(params, x, True, rngs={"dropout": key})
      return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    updates, opt = tx.update(jax.grad(loss)(params), opt, params)
    return optax.apply_updates(params, updates), opt

  for i in range(steps):
    batch = next(stream)
    params, opt = step(params, opt, batch["audio"], batch["label"], jax.random.key(i))
  stream.close()
  predict = jax.jit(lambda audio: model.apply(params, features(audio, rate), False).argmax(-1))
  right = total = 0.0
  for batch, mask in dataset.batches(batch_size):
    right += float((mask * (np.asarray(predict(batch["audio"])) == batch["label"])).sum())
    total += float(mask.sum())
  return predict, right / total


def through_file(
  sounds_BTC: np.ndarray, rate: int, kind: tuple[str, str], level: float
) -> tuple[np.ndarray, float] | None:
  """(the sounds as soundfile's format and subtype at this compression level give them back, bits
  per second), or None where this libsndfile cannot.
  """
  import soundfile

  stream, file = sounds_BTC.reshape(-1, sounds_BTC.shape[-1]), io.BytesIO()
  try:
    with soundfile.SoundFile(
      file, "w", rate, stream.shape[1], kind[1], format=kind[0], compression_level=level
    ) as out:
      out.write(stream)
    bits = 8 * len(file.getvalue()) * rate / len(stream)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
  except (soundfile.LibsndfileError, TypeError, ValueError):
    return None
  decoded = np.pad(decoded, ((0, len(stream)), (0, 0)))
  delay = _delay(stream[: 2**17, 0], decoded[: 2**17, 0])
  return decoded[delay : delay + len(stream)].reshape(sounds_BTC.shape), bits


def _delay(original: np.ndarray, late: np.ndarray, most: int = 4_096) -> int:
  """Samples by which `late` is late, where the two agree most."""
  length = len(original) + len(late)
  agree = np.fft.irfft(np.fft.rfft(late, length) * np.fft.rfft(original, length).conj(), length)
  return int(np.argmax(agree[:most]))


def figures(real: np.ndarray, recon: np.ndarray, signal: Any) -> tuple[float, float]:
  """(SI-SDR, mel distance) as the measure `sound` has them."""
  from vqjax.evaluators import add, sound

  measure, total = sound.Measure(signal=signal), None
  update = jax.jit(lambda a, b: measure.update((), {"audio": a}, {"audio": b}, jnp.ones(len(a))))
  for start in range(0, len(real), 50):
    total = add(total, update(real[start : start + 50], recon[start : start + 50]))
  found = measure.result(total)
  return found["si_sdr"], found["mel_distance"]


def compared(model: Any, real: np.ndarray) -> Iterator[list[str]]:
  """Rows (what, kbit/s, SI-SDR, mel distance)."""
  signal, (codes,) = model.info.signal, model.info.levels
  row = lambda name, bits, recon: [
    name, f"{bits / 1e3:.2f}", *(f"{x:.2f}" for x in figures(real, recon, signal))
  ]  # fmt: skip
  ids = model.encode(real)
  _, seconds = signal.amount(real.shape[1:])
  for books in sorted({min(n, codes.books) for n in (1, 2, 4, codes.books)}):
    bits = codes.length // codes.books * books * np.log2(codes.size) / seconds
    kept = ids[..., :books] if codes.books > 1 else ids
    yield row(f"this codec, {books} codebook(s)", bits, model.decode(kept)[:, : real.shape[1]])
  for name, kind in (("Opus", ("OGG", "OPUS")), ("mp3", ("MP3", "MPEG_LAYER_III"))):
    for level in _LEVELS:
      if found := through_file(real, signal.rate, kind, level):
        yield row(f"{name}, level {level:g}", found[1], found[0])


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path, help="a codec of sound")
  parser.add_argument("--data", metavar="PATH")
  parser.add_argument("--prior", type=cli.path, help="over its codes, given classes")
  parser.add_argument("--examples", type=cli.count, default=300)
  parser.add_argument("--samples", type=cli.count, default=20, help="of each class")
  args = parser.parse_args(argv)
  from vqjax import api, writers

  def opened(workdir: files.Path) -> Any:
    loaded = api.open_run(workdir)
    return loaded, loaded.dataset(args.data)

  loaded, dataset = opened(args.workdir)
  if getattr(loaded.run.task.info.signal, "field", None) != "audio":
    raise UserError(f"--workdir={args.workdir}: is no codec of sound; give that of one.")
  model = api.Tokenizer(loaded)
  parts = [b["audio"][m > 0] for b, m in dataset.batches(50, limit=args.examples)]
  head = ["codec", "kbit/s", "SI-SDR (dB)", "mel distance"]
  print(writers.table(head, list(compared(model, np.concatenate(parts)))))
  if args.prior:
    loaded, dataset = opened(args.prior)
    if "audio" not in dataset.sample(1):
      raise UserError(f"--prior={args.prior}: its data are codes; give the sounds as --data=PATH.")
    _agreement(api.Prior(loaded), model, dataset, args.samples)


def _agreement(prior: Any, codec: Any, dataset: Any, each: int) -> None:
  classes = prior.condition("label").classes
  predict, accuracy = train_classifier(dataset, prior.info.signal.rate, classes)
  print(f"the classifier is right on {accuracy:.1%} of the real held-out sounds")
  right = [
    np.asarray(predict(codec.reconstruct(batch["audio"])) == batch["label"])[mask > 0]
    for batch, mask in dataset.batches(50)
  ]
  print(f"and on {np.concatenate(right).mean():.1%} of them as the codec gives them back")
  labels = np.repeat(np.arange(classes), each)
  for guidance in (1.0, 2.0):
    made = prior.sample(len(labels), label=labels, guidance=guidance)
    agreed = float((np.asarray(predict(made)) == labels).mean())
    print(f"it takes {agreed:.1%} of {len(labels)} samples for their class, guidance {guidance:g}")
