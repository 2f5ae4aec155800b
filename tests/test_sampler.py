"""Requests: what is fixed, in codes of every book, and what a prior cannot answer."""

import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.sampler import Given, Sampler

INNER = dict(name="ema", codebook_size=8, dim=4)
SMALL = dict(name="vqvae", hidden=8, residual_hidden=8, residual_blocks=1)
RESIDUAL = dict(model=dict(SMALL, quantizer=dict(name="residual", depth=2, quantizer=INNER)))
MASKED = dict(
  model=dict(name="transformer", layers=1, width=16, heads=2), scheme=dict(name="masked")
)


def sampler_of(untrained, **condition):
  loaded = untrained(RESIDUAL, MASKED | dict(condition=condition))
  return Sampler(loaded.run.task.info.modules, loaded.weights, loaded.run.mesh)


def test_what_is_kept_is_counted_in_cells(untrained):
  """Two codes stand in each of 4 x 4 cells: both stay, or none."""
  sampler = sampler_of(untrained)
  np.testing.assert_array_equal(sampler.keep_first(0.25), np.arange(32) < 8)
  assert not sampler.keep_first(0.0).any() and sampler.keep_first(1.0).all()
  mask = np.zeros((16, 16))
  mask[4:6, 15] = 0.5  # touches the cell at row 1, column 3
  redrawn = ~sampler.keep_outside(mask).reshape(4, 4, 2)
  assert redrawn.sum() == 2 and redrawn[1, 3].all()
  ids = np.random.default_rng(0).integers(0, 8, (3, 4, 4, 2))
  request = sampler.request(Given(3, {}, (ids,), mask=mask))
  np.testing.assert_array_equal(request.known_BL, [~redrawn.reshape(-1)] * 3)
  np.testing.assert_array_equal(request.latent_BL, ids.reshape(3, 32))
  assert not sampler.request(Given(3)).known_BL.any()


@pytest.mark.parametrize(
  "mask, message",
  [
    (np.ones((8, 16)), "mask: is 8 x 16, the examples are 16 x 16; resize it"),
    (np.ones((16, 16, 3)), "mask: is 16 x 16 x 3, the examples are 16 x 16"),
    (np.zeros((16, 16)), "mask: is black everywhere"),
    (np.full((16, 16), np.nan), "mask: is black everywhere, or no number"),
  ],
)
def test_masks_that_do_not_fit_are_one_line(untrained, mask, message):
  with pytest.raises(UserError, match=message) as e:
    sampler_of(untrained).keep_outside(mask)
  assert "\n" not in str(e.value)


def test_a_prior_that_never_drew_without_its_condition_needs_it(untrained):
  sampler = sampler_of(untrained, label=dict(classes=8), drop=0.0)
  given = Given(2, {"label": np.array([1, 2])})
  np.testing.assert_array_equal(sampler.request(given).prefix_BP, [[18], [19]])  # 16 codes, 1 mask
  for call, message in [
    (lambda: sampler.request(Given(2)), "label: is not given, and this prior never drew without"),
    (
      lambda: sampler.draw(sampler.request(given), 0, guidance=2.0),
      "guidance: 2.0 needs a prior that was also trained without its conditions",
    ),
  ]:
    with pytest.raises(UserError, match=message) as e:
      call()
    assert "\n" not in str(e.value)


def test_rows_of_what_is_given():
  given = Given(5, {"label": np.arange(5)})
  last = given.rows(3, 4)
  assert last.num == 4
  np.testing.assert_array_equal(last.conditions["label"], [3, 4, 4, 4])


def test_one_program_draws_whatever_the_numbers(untrained):
  sampler = sampler_of(untrained, label=dict(classes=8), drop=0.1)
  request = sampler.request(Given(2, {"label": np.array([1, 2])}))
  options = dict(guidance=2.0, temperature=0.5, top_p=0.9, steps=2)
  drawn = [sampler.draw(request, 0, **options | more) for more in ({}, dict(temperature=0.9))]
  sampler.draw(request, 0, **options | dict(guidance=3.0, guidance_last=0.5, top_p=0.5))
  (fn,) = sampler._compiled.values()
  assert fn._cache_size() == 1 and (np.asarray(drawn[0]) != np.asarray(drawn[1])).any()
  greedy = [sampler.draw(request, seed, temperature=0, steps=1) for seed in (0, 1)]
  np.testing.assert_array_equal(*greedy)
