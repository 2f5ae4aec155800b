"""A run, and the runs and data its config names: from any folder, moved, replaced, trained on."""

import json
import logging
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import weights

import vqjax
from vqjax import config as configuration, measure, places, train
from vqjax.errors import UserError

RUN = dict(
  data=dict(name="arrays", path="data.npz"),
  ops=dict(size=16, channels=3),
  batch_size=8,
  total_steps=1,
  save_every=1,
  eval_examples=8,
  preview=0,
)
TOKENIZER = RUN | dict(
  model=dict(
    name="vqvae",
    hidden=8,
    residual_hidden=8,
    residual_blocks=1,
    quantizer=dict(name="ema", codebook_size=8, dim=4),
  )
)
PRIOR = RUN | dict(
  task="prior",
  tokenizer="runs/tokenizer",
  model=dict(name="transformer", layers=1, width=16, heads=2),
  scheme=dict(name="masked"),
)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_compiled():
  """Runs begin, are saved and continue as ever; each of their steps draws other weights."""

  class Run(train.Run):
    def __init__(self, *args):
      super().__init__(*args)
      self.init = lambda key: self._drawn(0)
      self.step = lambda state, frozen, batch: (
        self._drawn(int(state.step) + 1), {"loss/total": np.float32(1)}
      )  # fmt: skip

    def _drawn(self, step):
      state = weights.drawn(self.abstract, seed=100 * self.config["seed"] + step)
      return state.replace(step=jax.device_put(np.int32(step), self.abstract.step.sharding))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "Run", Run)
    patch.setattr(measure.HeldOut, "figures", lambda self, weights: {"psnr": 1.0})
    yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder with data and two runs, begun from within it with relative paths."""
  folder = tmp_path_factory.mktemp("project")
  images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
  np.savez(folder / "data.npz", images=images)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    train.train(TOKENIZER, "runs/tokenizer")
    train.train(PRIOR, "runs/prior")
  return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
  """`made` moved to `tmp_path / "moved"`; the current folder is another one."""
  folder = pathlib.Path(shutil.copytree(made, tmp_path / "moved"))
  for file in folder.glob("runs/*/*.json"):  # as if it had been begun at another place
    file.write_text(file.read_text().replace(str(made), str(tmp_path / "begun")))
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  return folder


def named(workdir):
  config = configuration.of_run(workdir)
  return config.tokenizer, config.data.path


def test_a_run_works_from_any_folder_and_moved_with_what_it_names(made, project):
  assert named(made / "runs/prior") == (str(made / "runs/tokenizer"), str(made / "data.npz"))
  workdir = project / "runs/prior"
  expected = str(project / "runs/tokenizer"), str(project / "data.npz")
  assert named(workdir) == named(os.path.relpath(workdir)) == expected
  assert vqjax.load(workdir).tokenizer.workdir == project / "runs/tokenizer"
  # The command that began it, from another folder: what it spells is what the run knows.
  train.train(PRIOR, workdir)
  saved = json.loads((workdir / "config.json").read_text())
  assert (saved["workdir"], saved["tokenizer"]) == (str(workdir), expected[0])


def test_a_copied_run_finds_what_stayed(made, tmp_path):
  alone = shutil.copytree(made / "runs/prior", tmp_path / "a/b/prior")
  assert named(alone) == (str(made / "runs/tokenizer"), str(made / "data.npz"))


@pytest.mark.parametrize(
  "gone, field, what",
  [("runs/tokenizer", "tokenizer", "no run"), ("data.npz", "data.path", "nothing")],
)
def test_what_is_gone_is_named_with_both_places_and_told_anew(project, gone, field, what):
  workdir, now = project / "runs/prior", project / ("now" + pathlib.Path(gone).suffix)
  (project / gone).rename(now)
  begun = project.parent / "begun"
  line = (
    f"config.{field}: {what} lies at {project / gone} or at {begun / gone}; say where it is now"
  )
  with pytest.raises(UserError, match=re.escape(line)):
    train.train(configuration.of_run(workdir), workdir)
  if field == "tokenizer":
    with pytest.raises(UserError, match=re.escape(line)):
      vqjax.load(workdir)
  vqjax.fit(None, workdir, [f"{field}={now}"])
  assert str(now) in named(workdir) and vqjax.load(workdir)


def test_another_run_at_that_place_is_refused_and_not_remembered(project):
  workdir, other = project / "runs/prior", project / "runs/other"
  train.train(
    TOKENIZER | dict(seed=1, data=dict(name="arrays", path=str(project / "data.npz"))), other
  )
  with pytest.raises(UserError, match=f"config.tokenizer: has changed since .* in {other} now"):
    vqjax.fit(None, workdir, [f"tokenizer={other}"])
  assert named(workdir)[0] == str(project / "runs/tokenizer")


def test_training_on_what_others_depend_on_warns(project, caplog):
  tokenizer, prior = project / "runs/tokenizer", project / "runs/prior"
  with caplog.at_level(logging.WARNING, "vqjax"):
    vqjax.fit(None, prior, ["total_steps=2"])
    vqjax.fit(None, tokenizer)  # nothing is left to do
    assert not caplog.records
    vqjax.fit(None, tokenizer, ["total_steps=2"])
    (record,) = caplog.records
    line = f"{tokenizer}: training changes its codes, and {prior} cannot be used with others"
    assert record.getMessage().startswith(line)
    caplog.clear()
    shutil.rmtree(prior)
    vqjax.fit(None, tokenizer, ["total_steps=3"])
    assert not caplog.records


def test_a_tokenizer_that_cannot_be_written_stays_without_a_note(project, monkeypatch):
  def refuse(*_):
    raise UserError("read-only")

  (project / "runs/tokenizer/dependents.json").unlink()
  monkeypatch.setattr("vqjax.lineage.files.write_json", refuse)
  from vqjax import lineage

  prior = project / "runs/prior"
  lineage.leave_notes({"tokenizer": ""}, configuration.of_run(prior), prior)
  assert lineage.dependents(project / "runs/tokenizer") == []


def test_places_are_found_by_their_marks_and_buckets_stay():
  prior = dict(
    task="prior",
    tokenizer="gs://b/runs/t",
    model=dict(name="pixelsnail"),
    scheme=dict(name="autoregressive"),
    condition=dict(layout_codes=dict(tokenizer="maps"), coarser=dict(prior="top")),
    init_from="gs://b/first",
    data=dict(name="folder", path="~/pictures"),
  )
  config = configuration.complete(prior)
  found = {p.field: (p.value, p.needed) for p in configuration.places_of(config)}
  assert found == {
    "tokenizer": ("gs://b/runs/t", True),
    "condition.layout_codes.tokenizer": ("maps", True),
    "condition.coarser.prior": ("top", False),
    "init_from": ("gs://b/first", False),
    "data.path": ("~/pictures", False),
  }
  assert places.candidates("gs://b/runs/t", "/a/prior", pathlib.Path("/b/prior")) == (
    "gs://b/runs/t",
  )
  assert places.absolute("gs://b/t") == "gs://b/t"
  assert places.absolute("~/t") == str(pathlib.Path("~/t").expanduser())
  moved = configuration.complete(
    prior | dict(tokenizer="/other/t", data=dict(prior["data"], path="/x"))
  )
  configuration.check_same(config, moved)  # what lies there is compared instead


@pytest.mark.parametrize(
  "typed, same",
  [
    ("runs/t", True),
    ("./t", True),
    ("../runs/t", True),
    ("other/t", False),
    ("", False),
    ("/runs/t", False),
  ],
)
def test_spellings_of_one_place(typed, same):
  assert places.same_spelling(typed, "/home/user/runs/t") == same
