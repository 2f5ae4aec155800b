"""One file in place of a run: the same results, all that it needs within, and nothing else."""

import functools
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

import vqjax
from vqjax import (
  api,
  checkpoint,
  compress,
  config as configuration,
  decompress,
  digests,
  evaluate,
  export,
  files,
  lineage,
  main,
  pictures,
  reconstruct,
  sample,
  tensors,
  tokenize,
  train,
)
from vqjax.codec import _tables
from vqjax.data.text import Bpe
from vqjax.errors import UserError

DATA = dict(
  data=dict(name="shapes", size=16, num_train=16, num_eval=8),
  ops=dict(size=16, channels=3),
  batch_size=8,
)
TINY = dict(hidden=8, residual_hidden=8, residual_blocks=1, downsamples=2)
TOKENIZER = DATA | dict(
  model=dict(name="vqvae", quantizer=dict(name="ema", codebook_size=8, dim=4), **TINY),
  disc=dict(name="patchgan", channels=8, n_layers=1),
  loss=dict(perceptual_weight=1.0, perceptual_weights="lpips.npz"),
  ema_decay=0.5,
)
PRIOR = DATA | dict(
  task="prior",
  model=dict(name="transformer", layers=1, width=16, heads=2),
  scheme=dict(name="autoregressive"),
  condition=dict(label=dict(classes=8)),
)


@pytest.fixture(scope="module")
def made(random_run):
  """made(workdir, config, **more) -> workdir: see random_run."""
  return lambda workdir, config, **more: random_run(workdir, config | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("secret_folder")


@pytest.fixture(scope="module")
def tokenizer(folder, made):
  """A tokenizer whose codes were counted, as `evaluate` does."""
  workdir = made(folder / "runs/tokenizer", TOKENIZER)
  model = vqjax.load(workdir)
  counts = ((np.arange(8, dtype=np.int64),),)
  _tables.save(workdir, counts, model.identity)
  return workdir


@pytest.fixture(scope="module")
def prior(folder, tokenizer, made):
  where = dict(tokenizer=str(tokenizer), data=dict(name="codes", path=str(folder / "codes")))
  return made(folder / "runs/prior", PRIOR, **where)


def exported(workdir, file, *flags):
  export.main([f"--workdir={workdir}", f"--output={file}", *flags])
  return file


@pytest.fixture(scope="module")
def file(folder, prior):
  return exported(prior, folder / "prior.safetensors")


@pytest.fixture(scope="module")
def alone(file, tmp_path_factory):
  """The file where nothing of what it was made of is near."""
  return pathlib.Path(shutil.copy(file, tmp_path_factory.mktemp("elsewhere")))


def named(file):
  return tensors.Tensors(file)


def test_what_is_inside(folder, file, prior, tokenizer):
  found = named(file)
  assert found.texts.keys() == {
    "format", "format_version", "made_by", "sha256", "config.json", "batch.json", "frozen.json",
    "tokenizer/config.json", "tokenizer/batch.json",
  }  # fmt: skip
  kinds = {name.split("/")[:4][-2] if "params" in name else name for name in found}
  assert "tokenizer/code_counts.npz" in found and not {"disc", "opt", "ema"} & kinds
  assert all("/model/" in name for name in found if not name.endswith(".npz"))
  content = file.read_bytes()
  for word in (str(folder), "secret_folder", os.getcwd()):
    assert word.encode() not in content
  config = json.loads(found.texts["config.json"])
  assert (config["workdir"], config["tokenizer"]) == (".", "./tokenizer")
  assert config["data"]["path"] == "codes" and config["model"]["width"] == 16
  inner = json.loads(found.texts["tokenizer/config.json"])
  assert inner["loss"]["perceptual_weights"] == "lpips.npz" and inner["disc"]["name"] == "patchgan"
  # The average, as it was saved.
  average = vqjax.load(tokenizer).weights.params["model"]["decoder"]
  name, x = next(iter(digests.leaves(average).items()))
  np.testing.assert_array_equal(found[f"tokenizer/params/model/decoder/{name}"], x)


def test_the_file_alone_gives_the_results_of_the_run(prior, alone):
  run, copy = vqjax.load(prior), vqjax.load(alone)
  assert type(copy) is api.Prior and str(copy.tokenizer.workdir) == f"{alone}/tokenizer"
  same = lambda call: np.testing.assert_array_equal(call(run), call(copy))
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  ids = run.encode(images)
  np.testing.assert_array_equal(copy.encode(images), ids)
  same(lambda model: model.decode(ids))
  same(lambda model: model.sample(2, label=[1, 2], seed=3))
  same(lambda model: model.log_prob(ids, label=3))
  same(lambda model: model.complete_codes(ids, 0.5, label=0))
  assert copy.tokenizer.identity == run.tokenizer.identity
  assert copy.codec.source.identity == run.codec.source.identity
  np.testing.assert_array_equal(copy.codec.source.tables[0][0], np.arange(8))


def test_another_step_than_the_newest(tmp_path, made):
  run = made(tmp_path / "run", TOKENIZER)
  first = named(exported(run, tmp_path / "first.safetensors"))
  abstract = train.Run(configuration.of_run(run), configuration.read_spec(run)).abstract
  with checkpoint.Checkpoints(run, keep=2) as checkpoints:
    state = jax.tree.map(lambda x: x + x, checkpoints._read(1, abstract)[0])
    checkpoints.save(2, state, checkpoint.NoStream())
  newest = named(exported(run, tmp_path / "newest.safetensors"))
  again = named(exported(run, tmp_path / "again.safetensors", "--step=1"))
  for name in [name for name in first if "params" in name]:
    np.testing.assert_array_equal(first[name], again[name])
    assert (first[name] != newest[name]).any()
  with pytest.raises(UserError, match=f"^--step=3: {run} has no such checkpoint; it has 1, 2.$"):
    exported(run, tmp_path / "none.safetensors", "--step=3")


def test_a_tokenizer_s_file_stands_for_its_run(tokenizer, prior, tmp_path, made):
  """The hashes that tie a prior, cached codes and coded files to it are those of the run."""
  file = exported(tokenizer, tmp_path / "t.safetensors")
  assert type(vqjax.load(file)) is api.Tokenizer
  assert vqjax.load(file).identity == vqjax.load(tokenizer).identity
  players = [api.open_run(run, whole=True).weights.params.keys() for run in (file, tokenizer)]
  assert players == [{"model"}, {"model", "disc"}]
  again = made(tmp_path / "prior", PRIOR, tokenizer=str(file))
  hashes = [api.open_run(run).run.task.frozen for run in (prior, again)]
  one, other = (frozen.identity(frozen.load()) for frozen in hashes)
  assert one == other
  assert configuration.of_run(again).tokenizer == str(file)
  # Moved with the file, as with a run.
  moved = shutil.move(tmp_path, tmp_path.parent / "moved")
  assert configuration.of_run(pathlib.Path(moved) / "prior").tokenizer == f"{moved}/t.safetensors"


def test_a_run_may_begin_with_it(tokenizer, tmp_path, monkeypatch):
  """As its tokenizer, and from its weights; the adversary starts afresh."""
  file = exported(tokenizer, tmp_path / "t.safetensors")
  before = file.read_bytes()
  lineage.leave_notes(
    {"tokenizer": ""}, configuration.complete(dict(PRIOR, tokenizer=str(file))), tmp_path
  )
  assert file.read_bytes() == before and lineage.dependents(files.path(file)) == []
  config = configuration.complete(TOKENIZER)
  spec = configuration.read_spec(tokenizer)
  asked = []
  monkeypatch.setattr(checkpoint, "restore_params", lambda place, tree: asked.append(tree) or {})
  run = train.Run(config, spec)
  run.init = lambda key, **parts: parts
  train._start(run, str(file))
  train._start(run, str(tokenizer))
  assert [tree["params"].keys() for tree in asked] == [{"model"}, {"model", "disc"}]


def test_narrow_weights_but_codebooks(prior, file, tmp_path):
  half = exported(prior, tmp_path / "half.safetensors", "--dtype=bfloat16")
  assert half.stat().st_size < 0.75 * file.stat().st_size
  wide, narrow = named(file), named(half)
  assert wide.keys() == narrow.keys()
  for name in wide:
    kept = "quantizer" in name or "stats" in name or wide[name].ndim < 2
    assert narrow[name].dtype == (wide[name].dtype if kept else "bfloat16"), name
    close = dict(rtol=0, atol=0) if kept else dict(rtol=2**-8, atol=1e-6)
    if not name.endswith(".npz"):
      np.testing.assert_allclose(narrow[name].astype(float), wide[name].astype(float), **close)
  # Another model, which knows its own tokenizer and counts.
  model, run = vqjax.load(half), vqjax.load(file)
  assert model.tokenizer.identity != run.tokenizer.identity
  np.testing.assert_array_equal(model.codec.source.tables[0][0], np.arange(8))
  leaf = jax.tree.leaves(model.weights.params)[0]
  assert leaf.dtype == np.float32
  # A file made of a file is the same one.
  again = exported(file, tmp_path / "again.safetensors", "--dtype=bfloat16")
  assert again.read_bytes() == half.read_bytes()


def test_what_the_type_cannot_hold_is_named():
  packing = export._Packing("float16")
  tree = {"params": {"up": np.full((2, 2), 1e6, np.float32), "bias": np.full(2, 1e6, np.float32)}}
  with pytest.raises(UserError, match="params/up has a value of 1e.06, .* take bfloat16"):
    packing._narrowed(tree)
  assert export._Packing("bfloat16")._narrowed(tree)["params"]["bias"].dtype == np.float32


@pytest.fixture
def vocabulary(tmp_path):
  """A file of it, and what a config says of that."""
  bpe = Bpe.train(["a red circle", "a blue square"] * 3, 270, lower=True)
  bpe.write(tmp_path / "texts/bpe.json")
  return bpe, dict(bpe=str(tmp_path / "texts/bpe.json"), size=270, length=12)


def test_all_that_a_prior_depends_on_is_within(tmp_path, vocabulary, made):
  """A hierarchy's other prior, the one tokenizer of both, that of maps, captions' vocabulary."""
  bpe, words = vocabulary
  model = dict(TOKENIZER["model"], name="vqvae2", quantizer=dict(name="vq", codebook_size=8, dim=4))
  del model["downsamples"]
  tokenizer = made(tmp_path / "tokenizer", DATA | dict(model=model))
  signal = dict(signal=dict(name="layout", classes=3), loss=dict(reconstruction="cross_entropy"))
  maps = made(tmp_path / "maps", DATA | dict(model=TOKENIZER["model"]) | signal)
  config = PRIOR | dict(tokenizer=str(tokenizer))
  top = made(tmp_path / "top", config)
  condition = dict(text=words, layout_codes=dict(tokenizer=str(maps)), coarser=dict(prior=str(top)))
  bottom = made(tmp_path / "bottom", config, level=1, condition=condition)
  file = exported(bottom, tmp_path / "elsewhere/bottom.safetensors")
  for run in (tokenizer, maps, top, bottom, tmp_path / "texts"):
    shutil.rmtree(run)
  found = named(file).texts
  folders = {name.rpartition("/")[0] for name in found if name.endswith("config.json")}
  assert folders == {"", "tokenizer", "coarser", "layout_codes"}
  fields = {"tokenizer", "condition.layout_codes.tokenizer", "condition.text.bpe"}
  assert json.loads(found["frozen.json"]).keys() == fields
  prior = vqjax.load(file)
  assert (prior._coarser.modules.level, prior.modules.level) == (0, 1)
  assert str(prior._coarser.tokenizer.workdir) == f"{file}/tokenizer"
  beside = prior.modules.prefix.tokenizers
  assert beside["layout_codes"].info.signal.field == "layout"
  assert beside["text"].captions.bpe.identity == bpe.identity


def test_a_ranker(tmp_path, vocabulary, made):
  tower = dict(width=8, depth=1, heads=2, mlp_width=8)
  towers = dict(image=dict(name="vit", patch=8, **tower), text=dict(name="transformer", **tower))
  config = DATA | dict(task="contrast", model=dict(features=4, **towers), text=vocabulary[1])
  run = vqjax.load(made(tmp_path / "ranker", config))
  copy = vqjax.load(exported(run.workdir, tmp_path / "ranker.safetensors"))
  shutil.rmtree(tmp_path / "texts")
  assert type(copy) is api.Ranker
  text = ["a red circle", "a circle"]
  np.testing.assert_array_equal(copy.embed(text=text), run.embed(text=text))
  jax.tree.map(np.testing.assert_array_equal, copy.weights.params, run.weights.params)


def test_statistics_of_floats_come_along(tmp_path, made):
  model = dict(TOKENIZER["model"], quantizer=dict(name="gaussian", dim=4))
  tokenizer = made(tmp_path / "tokenizer", DATA | dict(model=model))
  told = dict(mean=[0.1, 1 / 3, 0.0, -1.0], std=[1.0, 2.0, 3.0, 0.1])
  prior = made(
    tmp_path / "prior",
    PRIOR,
    tokenizer=str(tokenizer),
    model=dict(name="dit", layers=1, width=16, heads=2),
    scheme=dict(name="flow"),
    latents=told,
  )
  (prior / "latents.json").write_text(json.dumps(told))
  file = exported(prior, tmp_path / "flow.safetensors")
  assert json.loads(named(file).texts["latents.json"]) == told
  assert vqjax.load(file).modules.latent.std == tuple(told["std"])


@pytest.fixture
def opened(monkeypatch):
  """The commands open a file once, so that each prediction is compiled once."""
  for name in ("load", "open_run"):
    monkeypatch.setattr(api, name, functools.cache(getattr(api, name)))


def test_every_command_that_reads_a_run_takes_the_file(alone, tmp_path, opened, capsys):
  before = alone.read_bytes()
  picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
  (tmp_path / "a.png").write_bytes(pictures.encode(picture))
  run, image = f"--workdir={alone}", f"--input={tmp_path / 'a.png'}"
  inner = f"--workdir={alone}/tokenizer"
  sample.main([run, "--num=2", "--label=1", f"--output={tmp_path / 's.png'}"])
  reconstruct.main([run, image, f"--output={tmp_path / 'r'}"])
  compress.main([run, image, f"--output={tmp_path / 'a.vqjc'}", "--mode=static"])
  decompress.main([f"--input={tmp_path / 'a.vqjc'}", f"--output={tmp_path / 'd'}"])
  pixels = [pictures.read(tmp_path / name / "a.png", 3) for name in ("r", "d")]
  np.testing.assert_array_equal(*pixels)
  tokenize.main([inner, f"--output={tmp_path / 'codes'}"])
  evaluate.main([inner, "--coded=4", "--batch_size=8"])
  figures = json.loads((alone.with_suffix("") / "tokenizer/evaluation.json").read_text())
  assert figures["examples"] == 8 and "static" in figures["rates"]
  evaluate.main([run, f"--data={tmp_path / 'codes'}", "--coded=0", "--batch_size=8"])
  assert (alone.with_suffix("") / "nearest.png").exists()
  for command, flags in ((evaluate, []), (sample, ["--keep=0.5"])):
    with pytest.raises(UserError, match="config.data.path: nothing lies at codes; .*--data=PATH"):
      command.main([run, *flags])
  assert alone.read_bytes() == before and capsys.readouterr().out.count("\n") > 6


def test_mistakes_are_one_line(prior, tokenizer, file, tmp_path, made):
  (tmp_path / "bare").mkdir()
  for name in ("config.json", "batch.json"):
    shutil.copy(tokenizer / name, tmp_path / "bare")
  lost = made(tmp_path / "lost", PRIOR, tokenizer=str(tokenizer))
  (lost / "frozen.json").write_text(json.dumps({"tokenizer": "another"}))
  new = tmp_path / "new.safetensors"
  for workdir, output, line in (
    (prior, file, f"--output={file}: {file} exists"),
    (prior, tmp_path / "new", f"--output={tmp_path / 'new'}: end the name in .safetensors"),
    (tmp_path, new, f"--workdir={tmp_path}: holds no run"),
    (tmp_path / "bare", new, f"--workdir={tmp_path / 'bare'}: holds no checkpoint"),
    (lost, new, f"config.tokenizer: has changed since {lost} began"),
    (prior, file / "x.safetensors", f"--output={file}/x.safetensors: {file} exists"),
  ):
    with pytest.raises(UserError, match=f"^{line}") as caught:
      exported(workdir, output)
    assert "\n" not in str(caught.value)
  assert not new.exists()
  with pytest.raises(UserError, match="--step=1: an exported run has one state"):
    exported(file, new, "--step=1")
  for train_in in ([], ["--config=configs/vqvae_shapes.py:debug"]):
    with pytest.raises(UserError, match=f"{file}: is an exported run, .* --config.init_from"):
      main.main([f"--workdir={file}", *train_in])


def test_the_quickstart_s_file_draws():
  file = pathlib.Path(__file__).parents[1] / "docs" / "quickstart.safetensors"
  assert file.stat().st_size < 5e6 and b"/tmp/" not in file.read_bytes()
  drawn = vqjax.load(file).sample(2, label=3)
  assert drawn.shape == (2, 32, 32, 3) and len(np.unique(drawn)) > 20
