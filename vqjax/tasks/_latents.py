"""Which latents of its tokenizer a prior learns, and the statistics that normalise floats."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from vqjax import checks, digests, files, lineage
from vqjax.build import make as make_record, member, names
from vqjax.errors import UserError
from vqjax.latents import Codes, Floats
from vqjax.orders import Order
from vqjax.tasks._first_stage import FirstStage

log = logging.getLogger("vqjax")

FILE = "latents.json"  # in a prior's workdir
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Latents:
  """config.latents of a prior.

  Fields:
    kind: "auto" takes what the tokenizer yields: codes, where it has any. "continuous" takes the
      floats before its quantizer, which then quantizes what is drawn; of a posterior the mean.
      "sampled" draws them from the posterior, anew whenever an example is seen.
    examples: of training, by which the floats' statistics are measured when a run begins; None
      takes all.
    mean, std: of each channel; () measures them.
  """

  kind: Literal["auto", "continuous", "sampled"] = "auto"
  examples: int | None = 10_000
  mean: Sequence = ()
  std: Sequence = ()

  def __post_init__(self) -> None:
    checks.positive(self, "examples")
    if len(self.mean) != len(self.std):
      raise UserError(f"mean, std: {len(self.mean)} and {len(self.std)} numbers; give both, or ().")


def opened(config: Mapping[str, Any], spec: Mapping[str, Any]) -> FirstStage:
  """The tokenizer of a prior's config, which yields the latents that it learns."""
  latents = make_record(Latents, config["latents"], "config.latents")
  order = make_record(Order, config["order"], "config.order")
  return FirstStage(config["tokenizer"], spec, "config.tokenizer", latents=latents, order=order)


def identity(latent: Codes | Floats) -> dict[str, str]:
  """{field of the config: hash} of the statistics; {} of codes, which have none."""
  if latent.kind == "codes":
    return {}
  arrays = {"mean": np.asarray(latent.mean), "std": np.asarray(latent.std)}
  return {"latents": digests.identity({}, arrays)}


def begun(config: Mapping[str, Any], dataset: Any, workdir: files.Path) -> Mapping[str, Any]:
  """config.latents with statistics, where floats are learned: those of `workdir` if it has weights,
  those of the config, or measured ones; kept in `workdir` as latents.json.

  Without a dataset, of a conversion, nothing is measured.
  """
  latents = config["latents"]
  file = workdir / FILE
  if latents["mean"] or dataset is None:
    return latents
  if file.exists() and files.saved_steps(workdir):
    return dict(latents) | files.read_json(file)
  stage = opened(config, {})
  if stage.levels[0].kind == "codes":
    return latents
  frozen = stage.load()
  # Of another's latents no statistics are taken, which may not even have the channels.
  lineage.check_codes({"tokenizer": stage.identity(frozen)}, dataset, config)
  statistics = _measured(stage, frozen, dataset, latents["examples"])
  if jax.process_index() == 0:
    files.write_json(file, statistics)
  return dict(latents) | statistics


def _measured(
  stage: FirstStage, frozen: Any, dataset: Any, limit: int | None
) -> dict[str, list[float]]:
  """{"mean", "std"} of each channel over the first examples of training."""
  (latent,) = stage.levels
  encode = jax.jit(lambda frozen, batch, key: stage.levels_of(frozen, batch, key)[0])
  count, centre = 0, np.zeros(latent.width)
  total, squares = np.zeros_like(centre), np.zeros_like(centre)
  batches = dataset.batches(_BATCH, split="train", limit=limit)
  for i, (batch, mask) in enumerate(batches):
    batch = {k: v for k, v in batch.items() if k in (stage.field, "latents")}
    stage.check_cached(batch)
    if "latents" not in batch:
      batch = stage.task.prepare(batch)
    z = encode(frozen, batch, jax.random.fold_in(jax.random.key(0), i))
    rows = np.asarray(z, np.float64)[np.asarray(mask) > 0].reshape(-1, latent.width)
    # About the first batch's mean, so that the squares do not cancel.
    centre = rows.mean(0) if count == 0 else centre
    count += len(rows)
    total, squares = total + (rows - centre).sum(0), squares + np.square(rows - centre).sum(0)
  if not count:
    raise UserError("config.data: has no training examples to measure the latents of; give some.")
  mean, variance = total / count, squares / count - np.square(total / count)
  log.info("latents: mean and deviation of %d channels over %d vectors", latent.width, count)
  return {"mean": (centre + mean).tolist(), "std": np.sqrt(np.maximum(variance, 0)).tolist()}


def check_kind(config: Mapping[str, Any], latent: Codes | Floats) -> None:
  """Raises UserError for a scheme or a network over the other kind of latent."""
  tokenizer, learned = config["tokenizer"], latent.kind
  for family, path in (("schemes", "scheme"), ("priors", "model")):
    name = config[path].get("name")
    takes = lambda other: getattr(member(family, other), "takes", ("codes",))
    if name not in names(family) or learned in takes(name):
      continue
    able = ", ".join(other for other in names(family) if learned in takes(other))
    before = "what stands before its quantizer, by config.latents.kind=continuous"
    remedy = (
      f"learn {before}, or take one of {able}"
      if learned == "codes"
      else f"take one of {able}, or the codes of a tokenizer that has them, by "
      "config.latents.kind=auto"
    )
    raise UserError(
      f"config.{path}.name: {name!r} is for {' or '.join(takes(name))}, but of {tokenizer} "
      f"{learned} are learned; {remedy}."
    )
