"""Borders between codes, and pictures by a window beside pictures side by side."""

import types

import numpy as np
import pytest

from vqjax import api
from vqjax.errors import UserError
from vqjax.suites import seams


def test_a_step_in_the_middle_is_found():
  x = np.random.default_rng(0).normal(size=(4, 24, 32, 3))
  assert abs(seams.middle(seams.borders(x, (4, 4))) - 1) < 0.1
  x[:, :, 16:] += 100  # the fourth of seven borders from left to right
  down, right = seams.borders(x, (4, 4))
  assert len(down) == 5 and len(right) == 7 and right.argmax() == 3
  by_hand = np.abs(x[:, :, 16] - x[:, :, 15]).mean()
  others = [np.abs(x[:, :, i] - x[:, :, i - 1]).mean() for i in (4, 8, 12, 20, 24, 28)]
  np.testing.assert_allclose(right[3], by_hand)
  ratio = (down[2] / down[[0, 1, 3, 4]].mean() + by_hand / np.mean(others)) / 2
  np.testing.assert_allclose(seams.middle((down, right)), ratio)
  np.testing.assert_allclose(seams.worst((down, right)), by_hand / right.mean())


def test_maps_go_on_as_they_came():
  maps = np.random.default_rng(0).integers(0, 9, (2, 6, 4))
  whole = seams.mirrored(maps)
  np.testing.assert_array_equal(whole[:, :6, :4], maps)
  np.testing.assert_array_equal(whole, whole[:, ::-1, ::-1])


def test_quarters_lie_where_their_maps_lie():
  """A prior that draws its map gives the same by the window and side by side."""
  draw = lambda num, layout, **_: np.repeat(layout[..., None], 3, -1)
  model = types.SimpleNamespace(info=types.SimpleNamespace(size=(6, 4)), sample=draw)
  maps = np.random.default_rng(0).integers(0, 9, (2, 6, 4))
  window, apart = seams.drawn(model, {"layout": maps}, 2)
  np.testing.assert_array_equal(window, apart)
  np.testing.assert_array_equal(window[..., 0], seams.mirrored(maps))


def test_a_prior_of_maps(tmp_path, random_run, capsys, monkeypatch):
  shapes = dict(data=dict(name="shapes", size=16, num_train=32, num_eval=8), ops=dict(size=16))
  quantizer = dict(name="vq", codebook_size=8, dim=4)
  vqvae = dict(name="vqvae", hidden=8, residual_hidden=8, residual_blocks=1, quantizer=quantizer)
  tokenizer = str(random_run(tmp_path / "tokenizer", shapes | dict(model=vqvae)))
  prior = dict(
    task="prior",
    tokenizer=tokenizer,
    condition=dict(label=dict(classes=8), layout=dict(classes=9)),
    model=dict(name="transformer", layers=1, width=8, heads=1),
    scheme=dict(name="autoregressive"),
  )
  workdir = random_run(tmp_path / "prior", shapes | prior)
  page = tmp_path / "page.png"
  seams.main([f"--prior={workdir}", "--num=2", f"--output={page}"])
  said = capsys.readouterr().out
  assert all(f"| {name} " in said for name in ("window", "four side by side", "reals"))
  from PIL import Image

  with Image.open(page) as image:  # maps, window, apart: two of each, 32 pixels magnified twice
    assert image.size == (2 * 64 + 2, 3 * 64 + 2 * 2)
  with pytest.raises(UserError, match="is no prior"):
    seams.main([f"--prior={tokenizer}"])
  signal = types.SimpleNamespace(field="layout")
  other = types.SimpleNamespace(info=types.SimpleNamespace(signal=signal))
  monkeypatch.setattr(api, "load_prior", lambda *_: other)
  with pytest.raises(UserError, match=r"--prior=.*: draws no pictures \(layout\); give one"):
    seams.main([f"--prior={workdir}"])
