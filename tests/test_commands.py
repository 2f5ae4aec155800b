"""The commands on tiny runs: what they write and print, and the line that each kind of mistake
gets.
"""

import json
import pathlib
import shutil
import sys

import einops
import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from vqjax import (
  api,
  cli,
  compress,
  config as configuration,
  data,
  decompress,
  evaluate,
  main,
  pictures,
  reconstruct,
  sample,
  tokenize,
)
from vqjax.errors import UserError

pytestmark = pytest.mark.usefixtures("opened_once")
SHAPES = dict(name="shapes", size=16, num_train=24, num_eval=10)
RUN = dict(
  data=SHAPES,
  ops=dict(size=16, channels=3),
  batch_size=8,
  total_steps=2,
  log_every=1,
  save_every=2,
  eval_examples=8,
  preview=0,
)
PRIOR = RUN | dict(task="prior", model=dict(name="transformer", layers=1, width=16, heads=2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, random_run):
  """Workdirs: a tokenizer and its cached codes, both made by the commands, and untrained priors
  whose codes are far from uniform.
  """
  folder = tmp_path_factory.mktemp("runs")
  tokenizer, codes = (str(folder / name) for name in ("tokenizer", "codes"))
  model = dict(
    name="vqvae",
    hidden=8,
    residual_hidden=8,
    residual_blocks=1,
    quantizer=dict(name="ema", codebook_size=8, dim=4),
  )
  values = RUN | dict(model=model, total_steps=40, log_every=20, save_every=40, optim=dict(lr=1e-2))
  (folder / "tokenizer.py").write_text(f"def get_config():\n  return {values!r}\n")
  main.main(
    [f"--config={folder / 'tokenizer.py'}", "--workdir", tokenizer, "--config.ema_decay=0.5"]
  )
  tokenize.main(["--workdir", tokenizer, "--output", codes, "--batch_size=8", "--shard=20"])
  cached = dict(data=dict(name="codes", path=codes))
  causal = dict(scheme=dict(name="autoregressive"))
  labels = causal | dict(condition=dict(label=dict(classes=10)))
  config = PRIOR | labels | dict(tokenizer="none")
  (folder / "prior.py").write_text(f"def get_config():\n  return {config!r}\n")
  priors = {
    "autoregressive": labels | cached | dict(total_steps=1),  # that which it has
    "masked": dict(scheme=dict(name="masked")) | cached,
    "layout": causal | dict(condition=dict(layout=dict(classes=9, grid=(2, 2)))),
  }
  # Logits of the causal one do not differ much, those of the others do.
  std = {"autoregressive": 0.1, "masked": 1.0, "layout": 1.0}
  untrained = {
    name: str(
      random_run(folder / name, PRIOR | dict(tokenizer=tokenizer) | values, std[name], seed=43)
    )
    for name, values in priors.items()
  }
  return dict(tokenizer=tokenizer, codes=codes) | untrained


@pytest.fixture
def decoded(monkeypatch):
  """The codes that the commands decode, in order."""
  seen, decode = [], api.Tokenizer.decode
  monkeypatch.setattr(
    api.Tokenizer, "decode", lambda self, ids: seen.append(np.asarray(ids)) or decode(self, ids)
  )
  return seen


def save_picture(path, index=0, size=16):
  image = data.Dataset(dict(SHAPES, size=size)).sample(index + 1)["image"][index]
  pictures.save(path, image)
  return image


def tiles(sheet, height=16, width=16, enlarge=64, gap=2):
  """The pictures of a grid, uint8 [rows, columns, height, width, 3]."""
  sheet = np.asarray(
    sheet.convert("RGB") if isinstance(sheet, Image.Image) else Image.open(sheet).convert("RGB")
  )
  scale = enlarge // max(height, width)
  sheet = np.pad(sheet, ((0, gap), (0, gap), (0, 0)))
  images = einops.rearrange(
    sheet, "(r h) (c w) d -> r c h w d", h=height * scale + gap, w=width * scale + gap
  )
  return images[:, :, : height * scale : scale, : width * scale : scale]


def draw(workdir, file, *arguments):
  """Runs the command sample; returns the file it wrote."""
  sample.main(["--workdir", workdir, f"--output={file}", *arguments])
  return file


def test_sample_draws_every_class_and_follows_the_seed(runs, tmp_path, capsys):
  a, b, c = (
    tiles(
      draw(
        runs["autoregressive"], tmp_path / "out.png", "--num=20", "--label=all", f"--seed={seed}"
      )
    )
    for seed in (3, 3, 4)
  )
  assert a.shape == (10, 2, 16, 16, 3)  # a row per class
  np.testing.assert_array_equal(a, b)
  assert (a != c).any((2, 3, 4)).mean() > 0.8
  expected = api.load(runs["autoregressive"]).sample(20, label=np.repeat(np.arange(10), 2), seed=3)
  np.testing.assert_array_equal(a.reshape(expected.shape), expected)
  assert "20 sample(s) in" in capsys.readouterr().out


def test_sample_completes_a_picture(runs, tmp_path, decoded):
  image = save_picture(tmp_path / "a.png")
  shown = tiles(
    draw(
      runs["autoregressive"],
      tmp_path / "out.png",
      f"--image={tmp_path / 'a.png'}",
      "--num=4",
      "--label=2",
    )
  )
  ids, given = decoded[-1], np.asarray(api.load(runs["tokenizer"]).encode(image[None]))
  assert ids.shape == (4, 4, 4)
  np.testing.assert_array_equal(ids[:, :2], given[:, :2].repeat(4, 0))
  assert (ids[:, 2:] != ids[:1, 2:]).any()
  np.testing.assert_array_equal(shown[0, 0], image)
  np.testing.assert_array_equal(shown[0, 1:], api.load(runs["tokenizer"]).decode(ids))
  # Of any size: cut and resized as evaluation data are.
  large = np.random.default_rng(0).integers(0, 256, (331, 509, 3), np.uint8)
  pictures.save(tmp_path / "large.png", large)
  shown = tiles(
    draw(
      runs["autoregressive"], tmp_path / "out.png", f"--image={tmp_path / 'large.png'}", "--num=1"
    )
  )
  np.testing.assert_array_equal(shown[0, 0], pictures.fit(large, 16, 16))
  with pytest.raises(UserError, match="image: 24 x 16, this prior completes 16 x 16"):
    api.load(runs["autoregressive"]).complete(np.zeros((1, 24, 16, 3), np.uint8))


def test_sample_completes_held_out_pictures(runs, tmp_path, decoded):
  shown, prompts, completed = tiles(
    draw(runs["autoregressive"], tmp_path / "out.png", "--keep=0.3", "--num=3")
  )
  np.testing.assert_array_equal(
    prompts[:, :4], shown[:, :4]
  )  # 5 of 16 codes: a row of cells and one more
  np.testing.assert_array_equal(prompts[:, 4:8, :4], shown[:, 4:8, :4])
  assert (prompts[:, 4:8, 4:] == 128).all() and (prompts[:, 8:] == 128).all()
  *earlier, last = list(decoded)
  decode = api.load(runs["tokenizer"]).decode
  np.testing.assert_array_equal(completed, decode(last))
  given = data.Dataset(dict(name="codes", path=runs["codes"])).sample(3)[
    "ids"
  ]  # themselves, not of decoded pictures
  np.testing.assert_array_equal(earlier[0], given)
  np.testing.assert_array_equal(shown, decode(given))
  np.testing.assert_array_equal(last.reshape(3, 16)[:, :5], given.reshape(3, 16)[:, :5])


def test_sample_completes_pictures_without_the_condition(runs, tmp_path):
  rng = np.random.default_rng(0)
  np.savez(tmp_path / "a.npz", images=rng.integers(0, 255, (40, 16, 16, 3), np.uint8))
  prior, out = runs["autoregressive"], tmp_path / "out.png"
  draw(prior, out, "--keep=0.3", "--num=3", "--label=3", f"--data={tmp_path / 'a.npz'}")
  other = pathlib.Path(shutil.copytree(runs["codes"], tmp_path / "other"))
  text = (other / "manifest.json").read_text()
  (other / "manifest.json").write_text(
    text.replace(api.load(runs["tokenizer"]).identity, "another")
  )
  with pytest.raises(UserError, match="were made by tokenizer another"):
    draw(prior, out, "--keep=0.3", "--num=3", f"--data={other}")


def test_sample_inpaints_with_a_masked_prior(runs, tmp_path, decoded):
  image = save_picture(tmp_path / "a.png")
  mask = np.pad(
    np.full((6, 5, 1), 255, np.uint8), ((5, 5), (2, 9), (0, 0))
  )  # touches cells (1, 0) to (2, 1)
  pictures.save(tmp_path / "m.png", mask)
  draw(
    runs["masked"],
    tmp_path / "out.png",
    f"--image={tmp_path / 'a.png'}",
    f"--mask={tmp_path / 'm.png'}",
    "--num=8",
    "--steps=4",
  )
  changed = (decoded[-1] != np.asarray(api.load(runs["tokenizer"]).encode(image[None]))).any(0)
  np.testing.assert_array_equal(changed.nonzero(), [[1, 1, 2, 2], [0, 1, 0, 1]])


def test_sample_writes_an_animation_that_ends_in_the_picture(runs, tmp_path):
  still = Image.open(
    draw(
      runs["masked"], tmp_path / "out.png", "--num=16", "--steps=4", f"--gif={tmp_path / 'out.gif'}"
    )
  )
  with Image.open(tmp_path / "out.gif") as animation:
    assert animation.format == "GIF" and animation.is_animated and animation.n_frames == 4
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
  assert frames[-1].size == still.size
  # 256 colours for the whole picture.
  error = np.abs(np.asarray(frames[-1], float) - np.asarray(still, float))
  assert error.mean() < 4 and np.quantile(error, 0.99) < 24
  grey = [(np.abs(tiles(frame).astype(int) - 128) <= 4).all(-1).mean() for frame in frames]
  assert grey[0] > 0.6 and sorted(grey, reverse=True) == grey and grey[-1] < 0.3


def test_frames_of_a_completion_keep_what_is_given(runs):
  model = api.load(runs["masked"])
  ids = np.asarray(model.encode(data.Dataset(SHAPES).sample(2)["image"]))
  first, *_, last = model.frames(2, ids=ids, keep=0.5, steps=4)
  assert (first[:, :4] != 128).any() and (first[:, 8:] == 128).mean() > 0.5
  np.testing.assert_array_equal(last, model.complete_codes(ids, keep=0.5, steps=4))


def test_sample_goes_beyond_the_training_size(runs, tmp_path):
  shown = tiles(
    draw(
      runs["autoregressive"],
      tmp_path / "out.png",
      "--num=2",
      "--height=20",
      "--width=32",
      "--top_k=8",
    ),
    20,
    32,
  )
  assert shown.shape == (2, 1, 20, 32, 3)
  assert (shown[0] != shown[1]).any()


def test_sample_follows_a_layout(runs, tmp_path):
  layout = np.repeat([3, 7], 8)[None, :, None].repeat(16, 0).astype(np.uint8)
  pictures.save(tmp_path / "map.png", layout)
  shown = tiles(
    draw(runs["layout"], tmp_path / "out.png", f"--layout={tmp_path / 'map.png'}", "--num=4")
  ).reshape(4, 16, 16, 3)
  model = api.load(runs["layout"])
  np.testing.assert_array_equal(shown, model.sample(4, layout=layout[..., 0]))
  assert (shown != model.sample(4)).any()
  large = np.random.default_rng(0).integers(0, 9, (331, 509, 1), np.uint8)
  pictures.save(tmp_path / "large.png", large)  # resized with nearest neighbours
  np.testing.assert_array_equal(
    tiles(
      draw(runs["layout"], tmp_path / "out.png", f"--layout={tmp_path / 'large.png'}", "--num=1")
    ),
    model.sample(1, layout=pictures.fit(large[..., 0], 16, 16))[None],
  )
  palette = Image.fromarray(layout[..., 0])
  palette.putpalette([200, 10, 60] * 256)
  palette.save(tmp_path / "palette.png")  # the class is the index, whatever its colour
  np.testing.assert_array_equal(
    tiles(
      draw(runs["layout"], tmp_path / "out.png", f"--layout={tmp_path / 'palette.png'}", "--num=4")
    ).reshape(shown.shape),
    shown,
  )


MISTAKES = {
  "label out of range": ("autoregressive", ["--label=10"], r"label: 10 is outside 0 to 9"),
  "label of a prior without": (
    "masked",
    ["--label=1"],
    r"label: this prior was trained without one",
  ),
  "layout in colours": ("layout", ["--layout=picture.png"], r"picture\.png: has mode RGB"),
  "a mask of nothing": ("masked", ["--mask=map.png"], r"--mask: .*--image"),
  "two ways to keep": (
    "masked",
    ["--image=picture.png", "--mask=map.png", "--keep=0.5"],
    r"--mask, --keep",
  ),
  "a larger completion": (
    "autoregressive",
    ["--image=picture.png", "--height=32"],
    r"--height, --width: only free samples",
  ),
  "an option of no window": (
    "autoregressive",
    ["--height=32", "--steps=3"],
    r"steps: the scheme sliding window has no such",
  ),
  "prompt longer than the grid": (
    "autoregressive",
    ["--keep=1.5"],
    r"keep: 1\.5 is outside 0 to 1.*longer prompt has no place",
  ),
  "top_k of 0": ("autoregressive", ["--top_k=0"], r"top_k: 0 is no whole number from 1 up"),
  "top_k beyond the book": ("autoregressive", ["--top_k=9"], r"top_k: 9 is outside 1 to 8"),
  "an option of another scheme": (
    "autoregressive",
    ["--steps=4"],
    r"steps: the scheme autoregressive has no such option",
  ),
  "a mask for a causal prior": (
    "autoregressive",
    ["--image=picture.png", "--mask=map.png"],
    r"mask: an autoregressive prior cannot see",
  ),
  "a size off the grid": ("autoregressive", ["--height=18"], r"18 x 16 is not a multiple of 4"),
  "a size below the grid": ("autoregressive", ["--height=8"], r"8 x 16 is less than the training"),
  "a size of nothing": ("autoregressive", ["--height=0"], r"0 x 16 is not a multiple of 4"),
  "what the prior does not draw": (
    "autoregressive",
    ["--video=picture.png"],
    r"--video: this prior draws image; give --image",
  ),
  "a label of no size": ("autoregressive", [f"--label={10**20}"], r"give numbers, of 64 bits"),
  "ranks without a caption": ("autoregressive", ["--rank=tokenizer"], r"--rank: .* give --text"),
  "no samples": ("autoregressive", ["--num=0"], r"--num: 0 is no whole number"),
  "a map of no size": ("layout", ["--layout=map.png", "--height=-8"], r"-8 x 16 is not a multiple"),
  "no prior": ("tokenizer", [], r"is no prior"),
  "no run": ("nowhere", [], r"holds no run"),
  "no picture": ("autoregressive", ["--image=absent.png"], r"absent\.png: cannot be read"),
  "no format": (
    "masked",
    ["--steps=4", "--output=picture"],
    r"picture: no suffix is no picture format",
  ),
  "an animation as a picture": (
    "masked",
    ["--gif=steps.png"],
    r"--gif=steps\.png: is written as GIF",
  ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_sample_get_one_line(case, runs, tmp_path, monkeypatch):
  name, arguments, message = MISTAKES[case]
  monkeypatch.chdir(tmp_path)
  save_picture(pathlib.Path("picture.png"))
  pictures.save(pathlib.Path("map.png"), np.full((15, 12, 1), 1, np.uint8))
  with pytest.raises(UserError, match=message) as e:
    sample.main(["--workdir", runs.get(name, name), *arguments])
  assert "\n" not in str(e.value) and not (tmp_path / "samples.png").exists()


def test_an_error_is_one_line_on_stderr(runs, monkeypatch, capsys, tmp_path):
  save_picture(tmp_path / "a.png")
  monkeypatch.setattr(cli, "setup", lambda: None)
  for command, arguments, line in [
    (
      sample,
      [f"--workdir={tmp_path}"],
      f"--workdir={tmp_path}: holds no run (no config.json). Train one with python -m vqjax.main.",
    ),
    (
      reconstruct,
      [f"--workdir={runs['tokenizer']}", f"--input={tmp_path}", f"--output={tmp_path / 'a.png'}"],
      f"--output={tmp_path / 'a.png'}: names a file; give a folder.",
    ),
  ]:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as e:
      cli.run(command.main)
    out, err = capsys.readouterr()
    assert e.value.code == 1 and not out and err == f"error: {line}\n"


def test_continuing_needs_only_the_workdir_and_refuses_codes_of_other_weights(runs, tmp_path):
  main.main(["--workdir", runs["autoregressive"]])  # nothing is left to do
  # Other weights: the last ones instead of their average.
  other = shutil.copytree(runs["tokenizer"], tmp_path / "other")
  config = configuration.of_run(other)
  config.ema_decay = 0.0
  configuration.save(config, other)
  hashes = api.load(runs["tokenizer"]).identity, api.load(str(other)).identity
  with pytest.raises(
    UserError,
    match=f"config.data.path: .* made by tokenizer {hashes[0]}, config.tokenizer={other} is "
    f"{hashes[1]}",
  ):
    main.main(
      [
        "--config",
        str(pathlib.Path(runs["tokenizer"]).parent / "prior.py"),
        f"--workdir={tmp_path / 'prior'}",
        f"--config.tokenizer={other}",
        "--config.data.name=codes",
        f"--config.data.path={runs['codes']}",
      ]
    )


def test_tokenize_replaces_a_folder_and_refuses_priors(runs, tmp_path):
  (tmp_path / "manifest.json").write_text("{}")
  with pytest.raises(UserError, match="is no tokenizer"):
    tokenize.main(["--workdir", runs["autoregressive"], "--output", str(tmp_path)])
  with pytest.raises(UserError, match="--shard: 0 is no whole number from 1 up"):
    tokenize.main(["--workdir", runs["tokenizer"], "--output", str(tmp_path), "--shard=0"])
  assert (tmp_path / "manifest.json").exists()
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    tokenize.main(["--workdir", runs["tokenizer"], "--output", str(tmp_path), "--batch_size=8"])
  assert not (tmp_path / "manifest.json").exists()


def test_tokenize_keeps_all_captions(runs, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
  captions = np.array([[f"{i} a", f"{i} b"] for i in range(30)])
  np.savez(tmp_path / "a.npz", images=images, captions=captions)
  command = ["--workdir", runs["tokenizer"], "--data", str(tmp_path / "a.npz")]
  tokenize.main([*command, "--output", str(tmp_path / "codes"), "--batch_size=8"])
  codes = data.Dataset(data.resolve(str(tmp_path / "codes")))
  ((batch, mask),) = codes.batches(30, split="train", texts="all")
  kept = [tuple(text) for text, real in zip(batch["text"], mask) if real]
  assert len(kept) == codes.size("train") and set(kept) <= set(map(tuple, captions))
  stream = codes.train(len(kept), seed=0)
  drawn = {text for _ in range(12) for text in next(stream)["text"]}
  stream.close()
  assert drawn == {text for several in kept for text in several}


@pytest.mark.parametrize(
  "command, run, source, message",
  [
    (
      "evaluate",
      "tokenizer",
      "codes",
      "yields ids, label, layout, text, no image, which the run reads",
    ),
    (
      "tokenize",
      "tokenizer",
      "codes",
      "yields ids, label, layout, text, no image, which the run reads",
    ),
    ("evaluate", "autoregressive", "pictures", "yields image, no label, which the run reads"),
    ("main", "tokenizer", "codes", "learns the data's image, but they yield ids, label"),
    ("main", "autoregressive", "pictures", "condition.label: the data have no label"),
    ("main", "tokenizer", "", "--data=: is empty"),
    ("evaluate", "tokenizer", "", "--data=: is empty"),
  ],
)
def test_data_without_what_a_run_reads_are_one_line(
  command, run, source, message, runs, tmp_path, monkeypatch
):
  rng = np.random.default_rng(0)
  np.savez(tmp_path / "pictures.npz", images=rng.integers(0, 255, (40, 16, 16, 3), np.uint8))
  path = {"codes": runs["codes"], "pictures": str(tmp_path / "pictures.npz"), "": ""}[source]
  arguments = ["--workdir", runs[run], f"--data={path}"]
  if command == "main":
    config = pathlib.Path(runs["tokenizer"]).parent / f"{run}.py"
    config = config if config.exists() else config.with_name("prior.py")
    arguments = ["--config", str(config), "--workdir", str(tmp_path / "new"), arguments[-1]]
    arguments += [f"--config.tokenizer={runs['tokenizer']}"] * (run != "tokenizer")
  if command == "tokenize":
    arguments += ["--output", str(tmp_path / "out")]
  with pytest.raises(UserError, match=message) as e:
    {"main": main, "evaluate": evaluate, "tokenize": tokenize}[command].main(arguments)
  assert "\n" not in str(e.value)


def test_evaluate_a_tokenizer(runs, capsys, printed):
  evaluate.main(["--workdir", runs["tokenizer"], "--batch_size=4"])
  result = json.loads((pathlib.Path(runs["tokenizer"]) / "evaluation.json").read_text())
  images = np.stack([data.Dataset(SHAPES).source.examples("eval")[i]["image"] for i in range(10)])
  model = api.load(runs["tokenizer"])
  assert (
    result["examples"] == 10
    and result["data"]["num_eval"] == 10
    and set(result["protocol"]) == {"distortion", "ssim", "codes"}
  )
  assert (
    result["figures"]["usage"] == len(np.unique(model.encode(images))) / 8
    and result["figures"]["bits_per_image"] == 16 * 3
  )
  error = np.square((images.astype(float) - model.reconstruct(images)) / 255).mean((1, 2, 3))
  np.testing.assert_allclose(result["figures"]["psnr"], (-10 * np.log10(error)).mean(), rtol=1e-3)
  assert float(printed(capsys.readouterr().out)["psnr"][0]) == pytest.approx(
    result["figures"]["psnr"], rel=1e-4
  )
  with pytest.raises(UserError, match="--limit: 0 is no whole number from 1 up"):
    evaluate.main(["--workdir", runs["tokenizer"], "--limit=0"])


def test_evaluate_a_prior(runs, capsys):
  workdir, model = pathlib.Path(runs["autoregressive"]), api.load(runs["autoregressive"])
  evaluate.main(["--workdir", str(workdir)])
  result = json.loads((workdir / "evaluation.json").read_text())
  figures = result["figures"]
  assert result["protocol"]["likelihood"].endswith("exact")
  assert 0 < figures["bits_per_dim_standard_error"] < figures["bits_per_dim"]
  ids, labels = (
    np.load(pathlib.Path(runs["codes"]) / f"eval-00000-{name}.npy").astype(np.int32)
    for name in ("ids", "label")
  )
  ids = ids.reshape(10, 16)
  predict = jax.jit(lambda *given: model.modules._predict(*given, None))
  logits = np.asarray(predict(model.weights.params, ids, 8 + labels[:, None]), np.float64)
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nats = -np.take_along_axis(log_probs, ids[..., None], -1)[..., 0]
  np.testing.assert_allclose([figures[f"nats_at/{i}"] for i in range(16)], nats.mean(0), rtol=1e-4)
  np.testing.assert_allclose(figures["nats_per_code"], nats.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    figures["bits_per_dim"], nats.sum(1).mean() / np.log(2) / (16 * 16 * 3), rtol=1e-5
  )
  heat = np.asarray(Image.open(workdir / "positions.png")).astype(int)
  assert heat.shape == (256, 256, 3)
  cells = heat[32::64, 32::64].sum(-1).ravel()
  assert cells[nats.mean(0).argmin()] == 0 and cells[nats.mean(0).argmax()] == 765
  np.testing.assert_array_equal(cells[nats.mean(0).argsort()], np.sort(cells))
  drawn, nearest = tiles(workdir / "nearest.png", enlarge=128).astype(int)
  assert drawn.shape == (8, 16, 16, 3)
  shown = model.decode(
    np.stack([model.loaded.dataset().source.examples("train")[i]["ids"] for i in range(24)])
  ).astype(int)
  least = np.square(drawn[:, None] - shown[None]).sum((2, 3, 4)).argmin(1)
  np.testing.assert_array_equal(nearest, shown[least])
  assert {"positions.png", "nearest.png"} <= {
    line.split(":")[0] for line in capsys.readouterr().out.splitlines()
  }


def test_reconstruct_a_folder_of_any_sizes(runs, tmp_path, capsys):
  small = save_picture(tmp_path / "in" / "a.png")
  large = save_picture(tmp_path / "large.png", size=48)[:37, :46]
  pictures.save(tmp_path / "in" / "sub" / "b.bmp", large)
  reconstruct.main(
    ["--workdir", runs["tokenizer"], f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
  )
  assert "2 reconstruction(s)" in capsys.readouterr().out
  model = api.load(runs["tokenizer"])
  np.testing.assert_array_equal(
    Image.open(tmp_path / "out" / "a.png"), model.reconstruct(small[None])[0]
  )
  padded = large[np.minimum(np.arange(40), 36)][:, np.minimum(np.arange(48), 45)]
  np.testing.assert_array_equal(
    Image.open(tmp_path / "out" / "sub" / "b.png"), model.reconstruct(padded[None])[0, :37, :46]
  )
  # Two pictures of one name both stay, a broken one is left out.
  folder = tmp_path / "mixed"
  for name in ("a.png", "a.bmp", "b.bmp"):
    pictures.save(folder / name, small)
  (folder / "c.png").write_text("broken")
  reconstruct.main(
    ["--workdir", runs["tokenizer"], f"--input={folder}", f"--output={tmp_path / 'kept'}"]
  )
  out, err = capsys.readouterr()
  assert "3 reconstruction(s)" in out and "1 left out" in out and "c.png: cannot be read" in err
  assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
    "a.bmp.png",
    "a.png.png",
    "b.png",
  ]
  with pytest.raises(UserError, match="c.png: cannot be read"):
    reconstruct.main(
      [
        "--workdir",
        runs["tokenizer"],
        f"--input={folder / 'c.png'}",
        f"--output={tmp_path / 'kept'}",
      ]
    )
  # A prior stands for its tokenizer.
  reconstruct.main(
    [
      "--workdir",
      runs["autoregressive"],
      f"--input={tmp_path / 'in' / 'sub' / 'b.bmp'}",
      f"--output={tmp_path / 'again'}",
    ]
  )
  assert (tmp_path / "again" / "b.png").read_bytes() == (
    tmp_path / "out" / "sub" / "b.png"
  ).read_bytes()
  for arguments, message in (
    ([f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'in'}"], "would be overwritten"),
    ([f"--input={tmp_path / 'none'}", "--output=x"], "nothing is there"),
    ([f"--input={tmp_path / 'in'}", "--output=x.png"], "names a file; give a folder"),
    ([f"--input={tmp_path / 'in'}", "--output="], "--output: is empty; give a path"),
    (
      [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'in' / 'a.png' / 'x'}"],
      "a.png cannot be a folder|a.png/x cannot be a folder",
    ),
  ):
    with pytest.raises(UserError, match=message):
      reconstruct.main(["--workdir", runs["tokenizer"], *arguments])


def test_compress_and_decompress_a_folder(runs, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("VQJAX_CACHE", str(tmp_path / "cache"))
  folder, small = tmp_path / "in", save_picture(tmp_path / "in" / "a.png")
  large = save_picture(tmp_path / "large.png", size=48)[:37, :46]
  pictures.save(folder / "sub" / "b.bmp", large)
  (folder / "c.png").write_text("broken")
  model = api.load(runs["tokenizer"])
  padded = large[np.minimum(np.arange(40), 36)][:, np.minimum(np.arange(48), 45)]
  wanted = {"a": model.reconstruct(small[None])[0], "b": model.reconstruct(padded[None])[0]}
  wanted["b"] = wanted["b"][:37, :46]

  def check(folder):
    np.testing.assert_array_equal(Image.open(folder / "a.png"), wanted["a"])
    np.testing.assert_array_equal(Image.open(folder / "sub" / "b.png"), wanted["b"])

  archive, each = tmp_path / "all.vqjc", tmp_path / "each"
  for output in (archive, each):
    compress.main(["--workdir", runs["tokenizer"], f"--input={folder}", f"--output={output}"])
    out, err = capsys.readouterr()
    assert "2 image(s)" in out and "1 left out" in out and "c.png: cannot be read" in err
  # On this machine the run is known; elsewhere it is given.
  decompress.main([f"--input={archive}", f"--output={tmp_path / 'one'}"])
  check(tmp_path / "one")
  monkeypatch.setenv("VQJAX_CACHE", str(tmp_path / "elsewhere"))
  with pytest.raises(UserError, match="a.vqjc: was written with tokenizer .* give --workdir"):
    decompress.main([f"--input={each / 'a.vqjc'}", f"--output={tmp_path / 'x'}"])
  (each / "bad.vqjc").write_bytes((each / "a.vqjc").read_bytes()[:-3])
  workdir = ["--workdir", runs["tokenizer"]]
  decompress.main([*workdir, f"--input={each}", f"--output={tmp_path / 'several'}"])
  out, err = capsys.readouterr()
  assert "2 image(s)" in out and "1 file(s) left out" in out and "bad.vqjc: is cut short" in err
  check(tmp_path / "several")
  decompress.main([*workdir, f"--input={each / 'a.vqjc'}", f"--output={tmp_path / 'my.png'}"])
  np.testing.assert_array_equal(Image.open(tmp_path / "my.png"), wanted["a"])
  only = [f"--input={archive}", f"--output={tmp_path / 'only'}", "--only=sub/b.bmp"]
  decompress.main([*workdir, *only])
  assert [p.name for p in (tmp_path / "only").rglob("*.*")] == ["b.png"]
  with pytest.raises(UserError, match="--only=sub/x.bmp: .* Did you mean 'sub/b.bmp'"):
    decompress.main([*workdir, *only[:2], "--only=sub/x.bmp"])
  # Of two chunks the one that is whole is read.
  apart = [f"--input={folder}", f"--output={tmp_path / 'two.vqjc'}", "--group=1"]
  compress.main([*workdir, *apart])
  damaged = bytearray((tmp_path / "two.vqjc").read_bytes())
  damaged[-1] ^= 255
  (tmp_path / "two.vqjc").write_bytes(damaged)
  capsys.readouterr()
  decompress.main([*workdir, f"--input={tmp_path / 'two.vqjc'}", f"--output={tmp_path / 'half'}"])
  out, err = capsys.readouterr()
  assert out.startswith("1 image(s) in ") and err.count("left out: ") == 1
  np.testing.assert_array_equal(Image.open(tmp_path / "half" / "a.png"), wanted["a"])
  # Beside the originals nothing is written over.
  compress.main([*workdir, f"--input={folder}", f"--output={folder}"])
  before = (folder / "a.png").read_bytes()
  capsys.readouterr()
  decompress.main([*workdir, f"--input={folder}", f"--output={folder}"])
  out, err = capsys.readouterr()
  assert "1 file(s) left out" in out and "a.png is there already; choose another" in err
  assert (folder / "a.png").read_bytes() == before
  # The API writes what the command writes, for arrays and lists; static has tokenize's table.
  files = model.compress([small, large])
  assert files == [(each / "a.vqjc").read_bytes(), (each / "sub" / "b.vqjc").read_bytes()]
  for got, name in zip(model.decompress(model.compress([small, large], "static")), "ab"):
    np.testing.assert_array_equal(got, wanted[name])
  for mode, message in (("prior", "is a tokenizer alone"), ("x", "unknown name")):
    with pytest.raises(UserError, match=message):
      model.compress(small[None], mode)
