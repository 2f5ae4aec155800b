"""Published CLIP weights: embeddings and logits of transformers' own class, and refusals."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

import vqjax
from vqjax import convert
from vqjax.data import captions
from vqjax.errors import UserError
from vqjax.importers import _torch_file, clip

OPTIONS = dict(bpe="", image_heads=4, text_heads=4, activation="quick_gelu")


@pytest.fixture(scope="module")
def state(golden):
  return _torch_file.load(golden / "clip.safetensors")


def test_embeddings_and_logits(golden, tmp_path):
  heads = json.loads((golden / "meta_signals.json").read_text())["clip"]
  assert heads["text"]["num_attention_heads"] == heads["vision"]["num_attention_heads"] == 4
  convert.main([
    "--source=clip", f"--checkpoint={golden / 'clip.safetensors'}", f"--workdir={tmp_path / 'run'}",
    "--option", "image_heads=4", "--option", "text_heads=4",
  ])  # fmt: skip
  model, values = vqjax.load(tmp_path / "run"), np.load(golden / "clip.npz")
  # The pixels are standardised already; ours are what the tower standardises.
  mean, std = (np.asarray(model.config.model.image[k], np.float32) for k in ("mean", "std"))
  image = (values["pixels"] * std + mean) * 2 - 1
  end = heads["text"]["eos_token_id"]
  ended = np.cumsum(values["ids"] == end, axis=1) - (values["ids"] == end) > 0
  text = np.where(ended, -1, values["ids"]).astype(np.int32)
  found = jax.jit(model.task.predict["embed"])(model.weights, {"image": image, "text": text})
  np.testing.assert_allclose(found["image"], values["image_embeds"], atol=1e-5)
  np.testing.assert_allclose(found["text"], values["text_embeds"], atol=1e-5)
  logits = jax.jit(model.info.modules.logits)(
    model.weights.params["model"], {"image": image, "text": text}
  )
  np.testing.assert_allclose(logits, values["logits_per_image"], atol=1e-4)
  with pytest.raises(UserError, match="--option bpe=FILE"):
    model.embed(text="a circle")


def test_its_own_vocabulary_comes_along(state, tmp_path):
  spec = importlib.util.spec_from_file_location(
    "test_text", pathlib.Path(__file__).parents[1] / "data" / "test_text.py"
  )
  test_text = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(test_text)
  folder, vocabulary = test_text.clip_files(tmp_path / "files")
  size = len(vocabulary)
  table = np.random.default_rng(0).normal(size=(size, 32)).astype(np.float32)
  states = [dict(state) | {"text_model.embeddings.token_embedding.weight": table}]
  (run,) = clip.read(states, OPTIONS | dict(bpe=str(folder)), tmp_path / "run")
  convert.write_run(run, tmp_path / "run")
  (tmp_path / "run").rename(tmp_path / "moved")
  model = vqjax.load(tmp_path / "moved")
  assert (tmp_path / "moved" / "bpe.json").exists()
  vectors = model.embed(text=["a red circle", "an", ""])
  assert vectors.shape == (3, 24) and vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
  image = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 1)).astype(np.uint8)
  order, scores = model.rank(image, "a red circle")
  np.testing.assert_allclose(scores, model.embed(image=image) @ vectors[0], atol=1e-5)
  assert (np.diff(scores[order]) <= 0).all()
  text = captions.Text(bpe=str(folder))
  (tmp_path / "moved" / "bpe.json").unlink()  # weights whose vocabulary is given later
  with pytest.raises(UserError, match="config.text.bpe: .* has weights but no bpe.json"):
    captions.keep(captions.Text(), "config.text", [], tmp_path / "moved")
  assert captions.keep(text, "config.text", [], tmp_path / "moved").endswith("moved/bpe.json")
  for given in (dict(), dict(image=image, text=""), dict(text=3), dict(image=image[0])):
    with pytest.raises(UserError) as e:
      model.embed(**given)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("change, options, message", [
    (lambda s: s.pop("visual_projection.weight"), {}, "missing: 'visual_projection.weight'"),
    (lambda s: s.update(extra=np.zeros(1)), {}, "unexpected: 'extra'"),
    (lambda s: s.update({"text_projection.weight": np.zeros((3, 3))}), {}, "misshapen"),
    (dict, dict(image_heads=5), "image_heads: 5 does not divide"),
    (dict, dict(activation="relu"), "activation: 'relu'"),
])  # fmt: skip
def test_refusals(state, tmp_path, change, options, message):
  state = dict(state)
  change(state)
  with pytest.raises(UserError, match=message) as e:
    clip.read([state], OPTIONS | options, tmp_path)
  assert "\n" not in str(e.value)


def test_buffers_of_older_files_are_passed_over(state, tmp_path):
  older = dict(state) | {"text_model.embeddings.position_ids": np.arange(16)[None]}
  (run,) = clip.read([older], OPTIONS, tmp_path)
  assert run.spec["image"][0] == (32, 32, 3) and run.config["text"]["length"] == 16
