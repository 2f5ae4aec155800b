"""Video from end to end: a tokenizer causal in time, its prior under classes and captions, files in
and out, codes computed before.
"""

import jax
import numpy as np
import pytest

import vqjax
from vqjax import (
  build,
  config as configuration,
  data,
  evaluate,
  reconstruct,
  sample,
  tiles,
  train,
  videos,
)
from vqjax.compile import batch_of
from vqjax.errors import UserError
from vqjax.tasks import Info

SHAPES = dict(name="moving_shapes", size=16, frames=5, num_train=16, num_eval=8)
SHORT = dict(
  data=SHAPES,
  ops=dict(name="video", frames=5, size=16, channels=3),
  batch_size=8,
  total_steps=2,
  save_every=1,
  log_every=1,
  eval_examples=8,
  preview=0,
)
INNER = dict(name="ema", codebook_size=8, dim=4)
MODEL = dict(
  name="vqvae", hidden=8, residual_hidden=4, residual_blocks=1, time="causal", time_downsamples=1,
  quantizer=dict(name="residual", depth=2, quantizer=INNER),
)  # fmt: skip
PRIOR = dict(
  task="prior",
  order=dict(name="delayed"),
  model=dict(name="transformer", layers=1, width=16, heads=2),
  scheme=dict(name="autoregressive"),
  condition=dict(label=dict(classes=5), text=dict(size=258, length=24)),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("video") / "tokenizer"
  disc = dict(name="patchgan", channels=4, n_layers=1, time_layers=0, norm="none")
  found = train.train(SHORT | dict(signal=dict(name="video"), model=MODEL, disc=disc), workdir)
  assert {"psnr", "ssim", "psnr_of_change", "bits_per_frame"} <= found.keys()
  return str(workdir)


@pytest.fixture(scope="module")
def prior(tokenizer, tmp_path_factory, random_run):
  workdir = tmp_path_factory.mktemp("video")
  config = configuration.complete(SHORT | PRIOR | dict(tokenizer=tokenizer))
  config = train.begun(config, data.Dataset(config.data, config.ops), workdir)
  return str(random_run(workdir, config))


@pytest.fixture(scope="module")
def model(prior):
  return vqjax.load(prior)


def clips(num=2):
  return data.Dataset(SHAPES, dict(name="video")).sample(num)["video"]


def test_a_tokenizer_of_video(tokenizer):
  model, film = vqjax.load(tokenizer), clips()
  ids = model.encode(film)
  assert ids.shape == (2, 3, 4, 4, 2)
  np.testing.assert_array_equal(model.encode(film[:, :1]), ids[:, :1])  # a picture
  np.testing.assert_array_equal(model.encode(film[:, :3]), ids[:, :2])
  out = model.decode(ids)
  assert out.shape == film.shape and out.dtype == np.uint8
  np.testing.assert_array_equal(model.reconstruct(film), out)
  with pytest.raises(UserError, match="size 4x16x16 is not a multiple of 2x4x4 after the first 1"):
    model.encode(film[:, :4])


def test_films_are_reconstructed_in_their_own_format(tokenizer, tmp_path):
  pytest.importorskip("av")
  long = data.Dataset(SHAPES | dict(frames=8, size=32), dict(name="video"))
  film = long.sample(1)["video"][0]
  for name in ("a.gif", "b.mp4"):  # of other lengths and sizes than in training
    videos.save(tmp_path / "in" / name, film[:, :30])
  (tmp_path / "in" / "c.gif").write_text("no gif")
  flags = [
    "--workdir",
    tokenizer,
    "--input",
    str(tmp_path / "in"),
    "--output",
    str(tmp_path / "out"),
  ]
  reconstruct.main(flags)
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.gif", "b.mp4"]
  for name, height in (("a.gif", 30), ("b.mp4", 30)):
    opened = videos.read(tmp_path / "out" / name)
    assert len(opened) == 8 and opened[np.arange(1)].shape == (1, height, 32, 3)


def test_the_first_frames_are_continued(model, monkeypatch):
  film = clips(1)
  assert model.modules.latent.steps == 3 * 4 * 4 + 1
  seen, decode = [], model.decode
  monkeypatch.setattr(model, "decode", lambda ids: seen.append(np.asarray(ids)) or decode(ids))
  given = dict(label=[1], text="a red circle")
  out = model.complete(film, keep=2 / 3, **given)
  ids = np.asarray(model.encode(film))
  np.testing.assert_array_equal(seen[-1][:, :2], ids[:, :2])
  assert out.shape == film.shape
  # What follows is not looked at: the first three frames are codes of their own.
  later = film.copy()
  later[:, 3:] = 255 - later[:, 3:]
  np.testing.assert_array_equal(model.complete(later, keep=2 / 3, **given), out)
  with pytest.raises(UserError, match="video: 5 x 8 x 16, this prior completes 5 x 16 x 16"):
    model.complete(film[:, :, :8], keep=0.5, **given)
  values, hidden = model.shown(ids, 2 / 3)
  assert hidden.shape == (1, 5, 16, 16) and not hidden[:, :3].any() and hidden[:, 3:].all()
  scores = model.log_prob(ids, per_code=True, **given)
  assert scores.shape == (1, 96) and (scores < 0).all()
  guided = model.sample(1, label=1, text="a red circle", guidance=2.0)
  assert guided.shape == film.shape
  steps = model.frames(1, label=1, text="a")
  assert steps.shape == (49, 1, 16, 5 * 17 - 1, 3)


def test_samples_and_predictions_in_files(prior, model, tmp_path, monkeypatch):
  monkeypatch.setattr(vqjax.api, "load_prior", lambda *_: model)
  film = clips(1)[0]
  videos.save(tmp_path / "clip.gif", film[:2])  # shorter than what is drawn
  common = ["--workdir", prior, "--label", "2", "--text", "a blue ring"]
  run = lambda name, *more: sample.main([*common, "--output", str(tmp_path / name), *more])
  run("predicted.gif", "--num", "2", "--video", str(tmp_path / "clip.gif"), "--keep", "0.34")
  opened = videos.read(tmp_path / "predicted.gif")
  assert len(opened) == 5 and opened[np.arange(1)].shape[2] > 3 * 16  # the clip and two more
  run("strips.png", "--num", "2", "--keep", "0.34", "--gif", str(tmp_path / "steps.gif"))
  assert (tmp_path / "strips.png").stat().st_size and (tmp_path / "steps.gif").stat().st_size
  for flags, message in [
    (["--height", "32"], "height, width: a video has none"),
    (["--output", str(tmp_path / "a.txt")], "no video format; end the name in .gif or .mp4"),
    (["--video", str(tmp_path / "none.gif")], "none.gif: cannot be read as video"),
  ]:
    with pytest.raises(UserError, match=message) as e:
      sample.main([*common, "--num", "1", *flags])
    assert "\n" not in str(e.value)


def test_a_step_reads_the_same_of_codes_computed_before(tokenizer, model, reads_the_same):
  reads_the_same(tokenizer, model, SHAPES, ("label", "text"))
  for cached in (False, True):
    batch = batch_of(model.config, cached)
    run = train.Run(model.config, batch)
    _, metrics = jax.eval_shape(run._step, run.abstract, run.task.frozen.shapes(), batch)
    assert metrics["loss/codes"].shape == metrics["loss/text"].shape == ()


def test_bits_of_video(prior):
  evaluate.main(["--workdir", prior, "--limit", "8", "--coded", "0"])


@pytest.mark.parametrize(
  "frames, factor, cells, first, span",
  [(9, 4, 3, 1, (4, 3)), (8, 2, 4, 2, (2, 0)), (1, 4, 1, 1, (1, 0)), (5, 1, 5, 1, (1, 0))],
)
def test_what_a_plane_of_codes_stands_for(frames, factor, cells, first, span):
  """(positions of each code, how many the first lacks); padding that makes them whole."""
  model = dict(signal=build.build("signals", dict(name="video")), shape=(frames, 16, 16, 3))
  info = Info(
    **model, factors=(factor, 4, 4), levels=(), evaluators=(), pictures=None, modules=None
  )
  assert info.first == (first, 4, 4)
  assert info.spans((cells, 4, 4)) == (span, (4, 0), (4, 0))
  assert cells * span[0] - span[1] == frames
  for missing in range(min(factor, frames)):
    film = np.zeros((frames - missing, 13, 16, 3), np.uint8)
    assert tiles.padded(film, info.factors, info.first).shape == (frames, 16, 16, 3)


def test_data_of_another_size_say_which(tokenizer, tmp_path):
  ops = dict(name="video", frames=3, size=16, channels=3)
  config = configuration.complete(SHORT | PRIOR | dict(tokenizer=tokenizer, ops=ops))
  with pytest.raises(UserError, match=r"set config.ops.frames=5 and config.ops.size=16"):
    train.train(config, tmp_path / "prior")
