"""Sound from end to end: a codec and a prior of drawn tones, their files, and odd files."""

import functools
import json
import pathlib
import sys

import numpy as np
import pytest

from vqjax import config as configuration, evaluate, reconstruct, sample, sounds, train
from vqjax.api import tokenizer as tokenizer_module
from vqjax.errors import UserError
from vqjax.suites import sound as suite

ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # as it is for `python -m vqjax.main` in the repository
  sys.path.insert(0, str(ROOT))
RATE = 4_000
pytestmark = pytest.mark.usefixtures("opened_once")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, random_run):
  """(codec after two steps, prior of random weights): nothing that they make is good."""
  folder = tmp_path_factory.mktemp("runs")
  codec, prior = (
    configuration.load(f"{ROOT}/configs/{name}.py:debug")
    for name in ("codec_digits", "prior_digits")
  )
  for config in (codec, prior):
    config.data.update(num_train=192, num_eval=64)
  train.train(codec, folder / "codec_digits")
  prior.tokenizer = str(folder / "codec_digits")
  return folder / "codec_digits", random_run(folder / "prior_digits", prior)


def length(file):
  samples, rate = sounds.decode(file)
  return len(samples), rate


def test_a_run_leaves_pictures_and_sounds(runs):
  from tensorboardX.proto import event_pb2

  codec, _ = runs
  assert list((codec / "previews").iterdir())
  (file,) = (codec / "tensorboard").iterdir()
  content, heard = file.read_bytes(), {}
  while content:
    size = int.from_bytes(content[:8], "little")
    event = event_pb2.Event.FromString(content[12 : 12 + size])
    heard |= {v.tag: v.audio for v in event.summary.value if v.HasField("audio")}
    content = content[16 + size :]
  assert set(heard) == {f"reconstruction/{i}" for i in range(4)}
  clip = heard["reconstruction/0"]
  assert (clip.sample_rate, clip.num_channels, clip.length_frames) == (RATE, 1, 512)
  assert clip.encoded_audio_string[:4] == b"RIFF" and clip.content_type == "audio/wav"
  last = json.loads((codec / "metrics.jsonl").read_text().splitlines()[-1])
  assert {"eval/si_sdr", "eval/mel_distance", "eval/bits_per_second"} <= last.keys()
  # 512 samples are 16 steps of two codes of 16.
  np.testing.assert_allclose(last["eval/bits_per_second"], 16 * 2 * 4 * RATE / 512)


def test_reconstruct_reads_what_people_have(runs, tmp_path, capsys, monkeypatch):
  import soundfile

  codec, _ = runs
  given, made = tmp_path / "in", tmp_path / "out"
  given.mkdir()
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 2)).astype(np.float32)
  sounds.save(given / "stereo.wav", noise[:4_410], 44_100)  # 0.1 s
  sounds.save(given / "mono.flac", noise[:777, :1], 8_000)
  sounds.save(given / "silence.wav", np.zeros((1_000, 1), np.float32), RATE)
  sounds.save(given / "long.wav", noise[:, :1], RATE)
  sounds.save(given / "one.wav", noise[:1, :1], RATE)
  soundfile.write(given / "loud.wav", 3 * noise[:999], RATE, subtype="FLOAT")
  soundfile.write(given / "nan.wav", np.full((99, 1), np.nan), RATE, subtype="FLOAT")
  (given / "broken.mp3").write_bytes(b"ID3 nothing")
  monkeypatch.setattr(tokenizer_module, "_WHOLE", 2**14)
  reconstruct.main([f"--workdir={codec}", f"--input={given}", f"--output={made}"])
  said = capsys.readouterr()
  assert "6 reconstruction(s)" in said.out and "2 left out" in said.out
  assert "nan.wav: has samples that are not finite" in said.err and "broken.mp3" in said.err
  lengths = {f.name: length(f) for f in made.iterdir()}
  assert lengths == {
    "stereo.wav": (400, RATE), "mono.flac": (388, RATE), "silence.wav": (1_000, RATE),
    "long.wav": (40_000, RATE), "one.wav": (1, RATE), "loud.wav": (999, RATE),
  }  # fmt: skip


def test_sample_and_complete_write_sound(runs, tmp_path, capsys):
  _, prior = runs
  sample.main([f"--workdir={prior}", "--num=2", "--label=3", f"--output={tmp_path / 'a.wav'}"])
  assert "2 sample(s) in" in capsys.readouterr().out
  for i in range(2):
    assert length(tmp_path / f"a_{i}.wav") == (512, RATE)
  tone = 0.3 * np.sin(np.arange(700) / 5)[:, None].astype(np.float32)
  sounds.save(tmp_path / "tone.flac", tone, 8_000)
  given = [f"--audio={tmp_path / 'tone.flac'}", "--keep=0.5", "--num=2"]
  sample.main([f"--workdir={prior}", *given, f"--output={tmp_path / 'b.flac'}"])
  original, *completed = (sounds.decode(tmp_path / f"b_{i}.flac")[0] for i in range(3))
  expected = sounds.fitted(sounds.resampled(tone, 8_000, RATE), 512)
  np.testing.assert_allclose(original, expected, atol=1e-4)
  assert [len(sound) for sound in completed] == [512, 512]
  sample.main([f"--workdir={prior}", "--keep=0.5", "--num=2", f"--output={tmp_path / 'c.png'}"])
  assert (tmp_path / "c.png").stat().st_size
  with pytest.raises(UserError, match="no sound format; end the name in .wav"):
    sample.main([f"--workdir={prior}", "--num=1", f"--output={tmp_path / 'a.doc'}"])


def test_measures_and_pictures_of_a_prior(runs):
  _, prior = runs
  evaluate.main([f"--workdir={prior}", "--limit=8", "--batch_size=8", "--coded=0"])
  found = json.loads((prior / "evaluation.json").read_text())["figures"]
  assert np.isfinite(found["bits_per_second"]) and np.isfinite(found["nats_per_code"])
  assert (prior / "positions.png").exists() and (prior / "nearest.png").exists()


def test_bench_compares_codecs_and_asks_a_classifier(runs, capsys, monkeypatch):
  codec, prior = runs
  learn = functools.partial(suite.train_classifier, steps=60, batch_size=32)
  heard = []
  monkeypatch.setattr(suite, "train_classifier", lambda *a: heard.append(learn(*a)) or heard[0])
  monkeypatch.setattr(suite, "_LEVELS", (0.5,))
  suite.main([f"--workdir={codec}", f"--prior={prior}", "--examples=16", "--samples=1"])
  said = capsys.readouterr().out
  assert "this codec, 1 codebook(s)" in said and "this codec, 2 codebook(s)" in said
  assert f"right on {heard[0][1]:.1%} of the real" in said and "10 samples for their class" in said
  assert heard[0][1] > 0.4, "six timbres of which noise alone is easy"


def test_sounds_through_files_come_back_in_time():
  rng = np.random.default_rng(0)
  real = rng.uniform(-0.5, 0.5, (3, 4_000, 1)).astype(np.float32)
  same, bits = suite.through_file(real, RATE, ("FLAC", "PCM_16"), 0.5)
  np.testing.assert_allclose(same, real, atol=1e-4)
  assert 8 * RATE < bits < 17 * RATE
  assert suite._delay(real[0, :, 0], np.concatenate([np.zeros(77), real[0, :, 0]])) == 77
  assert suite.through_file(real, RATE, ("WAV", "NONE"), 0.5) is None
