"""Training: the state, the step and the one loop that serves every task."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from vqjax import (
  checkpoint,
  config as configuration,
  data,
  lineage,
  measure,
  optim,
  pictures,
  preemption,
  sharding,
  writers,
)
from vqjax.build import module
from vqjax.errors import UserError, near_miss

log = logging.getLogger("vqjax")


@struct.dataclass
class State:
  """Everything that training changes, arrays only.

  `ema` averages params["model"], or is None where no average is kept.
  """

  step: jax.Array
  params: Any
  stats: Any
  opt: Any
  ema: Any


class Run:
  """A completed config made concrete: mesh, task, optimizer, and the jitted `init(key)` and
  `step(state, frozen, batch)`.

  `init` takes `params` and `stats` that are there already, whole entries such as {"model": …}, in
  place of those drawn from the key.

  Args:
    config: completed, see vqjax.config.
    spec: a batch's shapes, {name: ShapeDtypeStruct}; the batch axis may have any length.
    devices: the devices to use, all by default.

  Attributes:
    abstract: the State as ShapeDtypeStructs that carry their shardings.
  """

  def __init__(
    self, config: Mapping[str, Any], spec: Mapping[str, Any], devices: Sequence[Any] | None = None
  ):
    self.config, self.spec = config, spec
    self.mesh = sharding.make_mesh(**config["mesh"], devices=devices)
    self.task = module("tasks", config["task"]).make(config, spec)
    self.tx = optim.make(
      config["optim"], config.get("optim_disc"), config["total_steps"], config["accumulate"]
    )
    everywhere = sharding.replicated(self.mesh)
    abstract = jax.eval_shape(self._init, jax.random.key(0))
    places = sharding.shardings(config["sharding"], self.mesh, abstract)
    self.abstract = checkpoint.with_sharding(abstract, places)
    # Runs once and is long straight-line code: on CPUs XLA's full optimization takes longer than
    # training's step does.
    options = (
      {"xla_backend_optimization_level": 1} if self.mesh.devices.flat[0].platform == "cpu" else None
    )
    self.init = jax.jit(self._init, out_shardings=places, compiler_options=options)
    self.step = jax.jit(
      self._step,
      donate_argnums=0,
      in_shardings=(places, everywhere, sharding.batch_sharding(self.mesh)),
      out_shardings=(places, everywhere),
    )

  @functools.cached_property
  def measurement(self) -> measure.Measurement:
    """The config's measures, or the task's own."""
    made = measure.measures(self.config["evaluators"] or self.task.evaluators, **self.task.known)
    return measure.Measurement(made, self.task.predict, self.mesh)

  def load_frozen(self) -> Any:
    """The weights that the loss reads and nobody trains, on the devices."""
    return jax.device_put(self.task.frozen(), sharding.replicated(self.mesh))

  def _init(self, key: jax.Array, params: Any = None, stats: Any = None) -> State:
    batch = {k: jnp.zeros((1, *v.shape[1:]), v.dtype) for k, v in self.spec.items()}
    drawn_params, drawn_stats = self.task.init(key, batch)
    params, stats = drawn_params | (params or {}), drawn_stats | (stats or {})
    ema = jax.tree.map(jnp.copy, params["model"]) if self.config["ema_decay"] else None
    return State(jnp.zeros((), jnp.int32), params, stats, self.tx.init(params), ema)

  def _step(self, state: State, frozen: Any, batch: Any) -> tuple[State, dict[str, jax.Array]]:
    key = jax.random.fold_in(jax.random.key(self.config["seed"]), state.step)
    grad = jax.value_and_grad(self.task.loss, has_aux=True)
    (total, (stats, metrics)), grads = grad(
      state.params, state.stats, frozen, batch, key, state.step
    )
    updates, opt = self.tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"loss/total": total} | {
      f"grad_norm/{k}": optax.tree.norm(v) for k, v in grads.items()
    }
    return State(state.step + 1, params, stats, opt, self._average(state, params)), metrics

  def _average(self, state: State, params: Any) -> Any:
    if state.ema is None:
      return None
    # Early on the average follows closely, or the first thousand steps would show the
    # initialisation.
    decay = jnp.minimum(self.config["ema_decay"], (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda e, p: e * decay + p * (1 - decay), state.ema, params["model"])


def variables(state: State) -> tuple[Any, Any]:
  """(params, stats) to predict with: averaged parameters where an average is kept."""
  return (state.params if state.ema is None else state.params | {"model": state.ema}), state.stats


def train(config: Mapping[str, Any], workdir: str | pathlib.Path) -> dict[str, float]:
  """Trains the run in `workdir`, or continues it. Returns the last held-out figures.

  Raises:
    UserError: whatever the user can mend, in one line.
  """
  config = configuration.complete(config)
  local = sharding.local_batch_size(config.batch_size, sharding.make_mesh(**config.mesh))
  workdir = pathlib.Path(workdir)
  _claim(workdir, config)
  dataset = data.Dataset(config.data, config.ops)

  def open_stream(step: int) -> data.Stream:
    return dataset.train(
      local,
      seed=config.seed,
      step=step,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  stream = first = spec = None
  if any(_saved_steps(workdir)):  # a conversion's step 0 says nothing of the data to come
    spec = configuration.read_spec(workdir)
  if spec is None:
    stream = open_stream(0)
    first = next(stream)
    spec = configuration.spec_of(first)
  run = Run(config, spec)
  if jax.process_index() == 0:
    configuration.save_spec(spec, workdir)
  with checkpoint.Checkpoints(workdir, config.keep, config.best) as checkpoints:
    restored = checkpoints.restore(run.abstract, open_stream)
    if restored is not None:
      if stream is not None:
        stream.close()
      first, (state, stream, window) = None, restored
      log.info("%s: continues from step %d", workdir, state.step)
    else:
      state, window = _start(run, workdir if 0 in checkpoints.steps() else config.init_from), {}
      stream = stream or open_stream(0)
      log.info("%s: starts on %d %s device(s)", workdir, jax.device_count(), jax.default_backend())
    return _Loop(run, workdir, stream, first, checkpoints, window).go(state)


def _claim(workdir: pathlib.Path, config: Any) -> None:
  """Makes `workdir` this run's; saves the config there, after comparing it with the one that is
  there.
  """
  if ":/" in str(workdir):
    raise UserError(
      f"--workdir={workdir}: is no folder; mount the bucket (gcsfuse BUCKET /mnt/BUCKET) and give the path there."
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    writable = os.access(workdir, os.W_OK)
  except OSError:
    writable = False
  if not writable:
    raise UserError(f"--workdir={workdir}: cannot be written; choose a folder that you own.")
  if (workdir / "config.json").exists() and (steps := _saved_steps(workdir)):
    # Step 0 is a conversion: only what its weights belong to is settled.
    weights = ("model", "disc", "task", "tokenizer", "condition.layout_tokenizer")
    configuration.check_same(
      configuration.of_run(workdir), config, weights if max(steps) == 0 else ("",)
    )
  if jax.process_index() == 0:
    configuration.save(config, workdir)


def _saved_steps(workdir: pathlib.Path) -> list[int]:
  return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def _start(run: Run, source: str | pathlib.Path | None) -> State:
  """The state of a new run: initialised from the seed, or with the parameters of the run in
  `source`.
  """
  parts = {}
  if source:
    # A discriminator comes along where both runs have the same one; else it starts afresh, with
    # what belongs to it.
    same = configuration.of_run(source).get("disc") == run.config.get("disc")
    wanted = lambda tree: dict(tree) if same else {"model": tree["model"]}
    parts = checkpoint.restore_params(
      source, {"params": wanted(run.abstract.params), "stats": wanted(run.abstract.stats)}
    )
  return run.init(jax.random.key(run.config["seed"]), **parts)


class NoStream:
  """Stands for the data position of a checkpoint that no training made."""

  def save(self, directory: pathlib.Path) -> None:
    del directory


class _Loop:
  """One process's walk from the state's step to the last.

  Holds what lives as long as the loop does, and no arrays of the state.
  """

  def __init__(
    self,
    run: Run,
    workdir: pathlib.Path,
    stream: data.Stream,
    first: Any,
    checkpoints: Any,
    window: dict,
  ):
    self.run, self.config, self.workdir = run, run.config, workdir
    self.stream, self.first, self.checkpoints = stream, first, checkpoints
    self.frozen = run.load_frozen()
    lineage.check_frozen(run, self.frozen, workdir, begin=True)
    lineage.check_codes(run, self.frozen)
    self.window = [
      dict(zip(window, values)) for values in zip(*window.values())
    ]  # host metrics of steps since the last log line
    self.pending: list[tuple[int, Any]] = []  # (step, device metrics) that nobody has fetched
    self.writer = self.progress = None
    self.held_out: dict[str, float] = {}
    self._preview = jax.jit(
      run.task.predict["preview"], out_shardings=sharding.replicated(run.mesh)
    )
    self._check_held_out()
    self.preview_batch = run.task.prepare(
      data.Dataset(self.config["data"], self.config["ops"]).sample(self.config["preview"])
    )
    self._check_figures()

  def _check_held_out(self) -> None:
    if not data.Dataset(self.config["data"]).size():
      raise UserError(
        "config.data: has no held-out examples, by which the run is measured; set some apart."
      )

  def _check_figures(self) -> None:
    """Raises UserError for what would else end the run at its first save: a measure that cannot be
    taken, an unknown `best`.
    """
    measurement, rows = self.run.measurement, self.config["batch_size"]
    batch = {
      k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in self.preview_batch.items()
    }
    mask = jax.ShapeDtypeStruct((rows,), jnp.float32)
    sums = jax.eval_shape(
      measurement._one_batch,
      measurement._weights,
      batch,
      mask,
      *variables(self.run.abstract),
      self.frozen,
    )
    names = {
      key
      for name, m in measurement.made.items()
      for key in m.result({k: np.ones(v.shape) for k, v in sums[name].items()})
    }
    if (best := self.config["best"].removeprefix("-")) and best not in names:
      plain = [name for name in names if "/" not in name]
      raise UserError(f"config.best: there is no held-out figure {best!r}.{near_miss(best, plain)}")

  def go(self, state: State) -> dict[str, float]:
    start, total = int(state.step), self.config["total_steps"]
    if jax.process_index() == 0:
      self.writer = writers.Writer(self.workdir, start)
      self.progress = writers.Progress(start, total, self.config["batch_size"])
    try:
      with preemption.Signals() as signals:
        self._steps(state, start, total, signals)
    finally:
      self.stream.close()
      if self.writer:
        self.writer.close()
        self.progress.close()
    return self.held_out

  def _steps(self, state: State, start: int, total: int, signals: preemption.Signals) -> None:
    batch = self._next_batch() if start < total else None
    for step in range(start + 1, total + 1):
      state, metrics = self.run.step(state, self.frozen, batch)
      # Fetched one step late: the device already works on this step while the host reads the one
      # before.
      self._fetch(before=step)
      self.pending.append((step, metrics))
      stop = signals.requested(step)
      if step % self.config["save_every"] == 0 or step == total:
        self._fetch()
        self._hold(step, state)
        self._save(step, state, self.held_out)
        if self.progress:
          self.progress.restart(step)
      elif stop:
        self._fetch()
        self._save(step, state, None)
      if stop:
        self.checkpoints.wait()
        log.info(
          "%s: stopped by a signal at step %d; the same command continues", self.workdir, step
        )
        return
      if step < total:
        batch = self._next_batch()

  def _next_batch(self) -> Any:
    batch = self.first if self.first is not None else next(self.stream)
    self.first = None
    return sharding.to_global(self.run.task.prepare(batch), self.run.mesh)

  def _fetch(self, before: int | None = None) -> None:
    """Fetches pending metrics where a log line is due (all of them without `before`), checks them
    and writes the line.
    """
    every, due = (
      self.config["log_every"],
      self.pending and self.pending[-1][0] % self.config["log_every"] == 0,
    )
    if not self.pending or (before is not None and not due):
      return
    for (step, _), values in zip(self.pending, jax.device_get([m for _, m in self.pending])):
      values = {k: float(v) for k, v in values.items()}
      _check_finite(step, values, self.checkpoints.steps(), self.workdir)
      self.window.append(values)
      if step % every == 0:
        self._log(step)
    self.pending = []

  def _log(self, step: int) -> None:
    mean = {k: float(np.mean([m[k] for m in self.window])) for k in self.window[-1]}
    if self.writer:
      self.writer.scalars(step, mean, images_per_second=self.progress.report(step, mean))
    self.window = []

  def _save(self, step: int, state: State, held_out: dict[str, float] | None) -> None:
    window = {k: [m[k] for m in self.window] for k in self.window[-1]} if self.window else {}
    self.checkpoints.save(step, state, self.stream, held_out, window)

  def _hold(self, step: int, state: State) -> None:
    """Held-out figures and a preview at this step."""
    values = (*variables(state), self.frozen)
    self.held_out = evaluate_split(self.run, values, limit=self.config["eval_examples"])
    # The step's own loss was of the parameters before it: an update that spoils them shows here
    # first.
    _check_finite(
      step,
      {f"eval/{k}": v for k, v in self.held_out.items()},
      self.checkpoints.steps(),
      self.workdir,
    )
    batch = jax.device_put(self.preview_batch, sharding.replicated(self.run.mesh))
    rows = jax.device_get(self._preview(*values, batch)["rows"])
    if self.writer:
      self.writer.scalars(step, {f"eval/{k}": v for k, v in self.held_out.items()})
      self.writer.picture(step, "preview", pictures.grid(rows))
      self.progress.say(
        f"step {step}: held out  "
        + "  ".join(f"{k} {v:.4g}" for k, v in self.held_out.items() if "/" not in k)
      )


def evaluate_split(
  run: Run, state: tuple, limit: int | None = None, batch_size: int | None = None
) -> dict[str, float]:
  """The run's measures over its held-out split, or over the first `limit` examples; `state` is
  (params, stats, frozen).
  """
  config = run.config
  local = sharding.local_batch_size(batch_size or config["batch_size"], run.mesh)
  batches = data.Dataset(config["data"], config["ops"]).batches(
    local, limit=limit, process_index=jax.process_index(), process_count=jax.process_count()
  )
  prepared = ((run.task.prepare(batch), mask) for batch, mask in batches)
  return run.measurement.over(prepared, state)


def _check_finite(
  step: int, values: Mapping[str, float], saved: Sequence[int], workdir: pathlib.Path
) -> None:
  bad = [k for k, v in values.items() if not np.isfinite(v)]
  if not bad:
    return
  # Terms before their total, losses before gradients: the first cause comes first.
  bad.sort(key=lambda k: (not k.startswith("loss/"), k == "loss/total", k))
  kept = (
    f"the last good checkpoint is step {saved[-1]}" if saved else "no checkpoint had been saved"
  )
  raise UserError(
    f"step {step}: {bad[0]} is {values[bad[0]]}; {kept}. Continue with a lower config.optim.lr, "
    f"or start anew with --config.init_from={workdir} and config.optim.clip=1.0."
  )
