"""Training: the state, the step and the one loop that serves every task."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vqjax import (
  checkpoint,
  config as configuration,
  data,
  files,
  goodput,
  holder,
  lineage,
  measure,
  optim,
  preemption,
  sharding,
)
from vqjax.build import module
from vqjax.errors import UserError
from vqjax.journal import Journal
from vqjax.nn import target
from vqjax.tasks import Weights
from vqjax.trace import Trace

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
  `step(state, frozen, batch)`; early steps may have a program of their own, see `program`.

  `init` takes `params` and `stats` that are there already, whole entries such as {"model": …}, in
  place of those drawn from the key; their buffers become the state's.

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
    self.tx = optim.make(config)
    everywhere = sharding.replicated(self.mesh)
    abstract = jax.eval_shape(self._init, jax.random.key(0))
    places = sharding.shardings(config["sharding"], self.mesh, abstract)
    self.abstract = checkpoint.with_sharding(abstract, places)
    self.init = jax.jit(
      self._init,
      out_shardings=places,
      donate_argnames=("params", "stats"),
      compiler_options=_init_options(self.mesh),
    )
    split = sharding.batch_sharding(self.mesh)
    self._split = target.Split(split, params=self.mesh.shape["fsdp"] > 1)
    program = functools.partial(
      jax.jit,
      donate_argnums=0,
      in_shardings=(places, everywhere, split),
      out_shardings=(places, everywhere),
      compiler_options=_step_options(self.mesh),
    )
    self.step = program(self._step)
    self.early_steps, early = self.task.early or (0, None)
    self._early = program(functools.partial(self._step, loss=early))

  def program(self, step: int) -> Any:
    """The jitted step that takes the run to `step`, counted from 1."""
    return self.step if step > self.early_steps else self._early

  @functools.cached_property
  def measurement(self) -> measure.Measurement:
    """The config's measures, or the task's own."""
    return measure.of_run(self.config, self.task, self.mesh)

  def load_frozen(self) -> Any:
    """The weights that the loss reads and nobody trains, on the devices."""
    return jax.device_put(self.task.frozen.load(), sharding.replicated(self.mesh))

  def _init(self, key: jax.Array, params: Any = None, stats: Any = None) -> State:
    batch = {k: jnp.zeros((1, *v.shape[1:]), v.dtype) for k, v in self.spec.items()}
    drawn_params, drawn_stats = self.task.init(_stream(key, "init"), batch)
    params, stats = drawn_params | (params or {}), drawn_stats | (stats or {})
    ema = jax.tree.map(jnp.copy, params["model"]) if self.config["ema_decay"] else None
    return State(jnp.zeros((), jnp.int32), params, stats, self.tx.init(params), ema)

  def _step(
    self, state: State, frozen: Any, batch: Any, loss: Any = None
  ) -> tuple[State, dict[str, jax.Array]]:
    # A function of (seed, step): nothing random needs saving, and a resumed run draws the same.
    noise = self.config["noise"]
    key = jax.random.key(self.config["seed"], impl=None if noise == "auto" else noise)
    key = _stream(key, "steps")
    key = jax.random.fold_in(key, state.step)
    grad = jax.value_and_grad(loss or self.task.loss, has_aux=True)
    with target.splitting(self._split):
      (total, (stats, metrics)), grads = grad(
        state.params, state.stats, frozen, batch, key, state.step
      )
    updates, opt = self.tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"loss/total": total} | {
      f"grad_norm/{k}": optax.tree.norm(v) for k, v in grads.items()
    }
    return State(state.step + 1, params, stats, opt, self._average(state, params, stats)), metrics

  def _average(self, state: State, params: Any, stats: Any) -> Any:
    """The average after a step that led from `state` to `params` and `stats`: it moves when the
    parameters do, once per update.
    """
    if state.ema is None:
      return None
    ema = self.task.restart(state.ema, state.params, state.stats, stats)
    steps, accumulate = state.step + 1, self.config["accumulate"]
    updates = steps // accumulate
    # Early on the average follows closely, or the first thousand updates would show the
    # initialisation.
    decay = jnp.minimum(self.config["ema_decay"], updates / (9.0 + updates))
    decay = jnp.where(steps % accumulate == 0, decay, 1.0)
    return jax.tree.map(lambda e, p: e * decay + p * (1 - decay), ema, params["model"])


def _init_options(mesh: Any) -> dict[str, Any] | None:
  """What XLA is told of the initialisation, which runs once and is long straight-line code: on CPUs
  its full optimization takes longer than training's step does. XLA_FLAGS go before.
  """
  level = "xla_backend_optimization_level"
  asked = level in os.environ.get("XLA_FLAGS", "")
  return {level: 1} if mesh.devices.flat[0].platform == "cpu" and not asked else None


def _step_options(mesh: Any) -> dict[str, Any] | None:
  """What XLA is told of a step.

  For TPUs it would multiply by parameters that many devices share in as many steps, one for what
  each of them has, which leaves the matrix units a few columns at a time: LlamaGen-L split over 16
  chips then takes 2.4 times as long. Gathered whole, a layer ahead, they cost little.
  """
  if (
    mesh.devices.flat[0].platform == "tpu" and mesh.shape["fsdp"] > 1 and mesh.shape["tensor"] == 1
  ):
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
  return sharding.threaded(mesh.devices.flat)


def _stream(key: jax.Array, name: str) -> jax.Array:
  """The key of one use of a run's seed.

  Small numbers folded into the seed itself would meet each other: split(key)[i] is
  fold_in(key, i).
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def weights_of(state: State, frozen: Any) -> Weights:
  """What to predict with: averaged parameters where an average is kept."""
  params = state.params if state.ema is None else state.params | {"model": state.ema}
  return Weights(params, state.stats, frozen)


def train(
  config: Mapping[str, Any], workdir: str | os.PathLike[str], profile: bool = False
) -> dict[str, float]:
  """Trains the run in `workdir`, or continues it. Returns the held-out figures of the last save;
  {} where no step was left to take. `profile` traces a few steps into the workdir.

  Raises:
    UserError: bad input, a loss that is not finite, a save that fails, or another process that
      trains in the workdir; in one line.
  """
  began, workdir = time.monotonic(), files.path(workdir)
  config = configuration.located(configuration.complete(config), workdir)
  with contextlib.ExitStack() as stack:
    held = stack.enter_context(_claim(workdir))
    configuration.check_there(config, workdir, "data")
    dataset = data.Dataset(config.data, config.ops)
    if (examples := dataset.size("train")) < config.batch_size:
      log.warning("%s: a batch of %d repeats %d examples", workdir, config.batch_size, examples)
    config = begun(config, dataset, workdir)
    _settle(config, workdir)
    lineage.check_data(dataset, workdir)
    checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir, config.keep, config.best))
    run, state, batches, window = _begin(config, workdir, dataset, checkpoints)
    stack.callback(batches.close)
    frozen = run.load_frozen()
    _check_lineage(run, frozen, dataset, workdir)
    held_out = measure.HeldOut(run, dataset, weights_of(run.abstract, frozen))
    start, total = int(state.step), config.total_steps
    if start < total:
      lineage.warn_dependents(workdir)
    else:
      log.info("%s: nothing is left to do, all %d steps are taken", workdir, total)
    spent = goodput.Ledger(workdir, start, began)
    told = dict(window=window, saved=checkpoints.steps, noun=run.task.info.signal.noun)
    journal = Journal(workdir, config, start, **told)
    stack.callback(journal.close)
    signals = stack.enter_context(preemption.Signals())
    trace = Trace(workdir / "profile" if profile else None, start)
    stack.callback(trace.close)
    figures: dict[str, float] = {}

    for step in range(start + 1, total + 1):
      spent.on("input")
      batch = batches.next()
      trace.before(step)
      spent.on("compile" if step in (start + 1, run.early_steps + 1) else "step")
      state, metrics = run.program(step)(state, frozen, batch)
      trace.after(step, state.step)
      spent.on("step")
      held.check()  # nothing is written where another process took over meanwhile
      journal.add(step, metrics)
      stop = signals.requested(step)
      due = step % config.save_every == 0 or step == total
      if due or stop:
        journal.flush()
      if due:
        spent.on("evaluate")
        weights = weights_of(state, frozen)
        # Before the save: a figure that is not finite must leave the last good step the newest.
        figures = held_out.figures(weights)
        journal.held_out(step, figures)
        journal.preview(step, held_out.preview(weights))
      if due or stop:
        spent.on("save")
        journal.written()
        held.check()
        # Without figures where none were measured: the best checkpoint is not chosen by old ones.
        measured = figures if due else None
        checkpoints.save(step, state, batches.stream, measured, journal.window)
        spent.keep()
      if stop:
        checkpoints.wait()
        log.info("%s: stopped by a signal at step %d; the same command continues", workdir, step)
        break
    if start < total:
      log.info("%s: time went to %s", workdir, spent)
  return figures


def _check_lineage(run: Run, frozen: Any, dataset: data.Dataset, workdir: files.Path) -> None:
  """Ties the run to its tokenizers and its data. Raises UserError where they are others by now."""
  config, tokenizers = run.config, run.task.frozen.identity(frozen)
  lineage.check_frozen(tokenizers, config, workdir, begin=True)
  lineage.check_codes(tokenizers, dataset, config)
  if jax.process_index() == 0:
    # Not before: of a config of which no run can be made nothing is kept. What it names is what the
    # run began with.
    configuration.save(config, workdir)
    lineage.leave_notes(tokenizers, config, workdir)


def begun(config: Any, dataset: data.Dataset | None, workdir: files.Path) -> Any:
  """The config with what its task makes of the data before all else, and keeps in `workdir`.

  Without a dataset, of converted weights, nothing is made: what the config names is kept.
  """
  begin = getattr(module("tasks", config.task), "begin", None)
  return begin(config, dataset, workdir) if begin else config


@contextlib.contextmanager
def _claim(workdir: files.Path) -> Iterator[holder.Holder]:
  """Holds `workdir` against other processes that train."""
  files.make_workdir(workdir)
  start_up = preemption.start_up()
  held = holder.Holder(workdir, jax.process_index(), jax.process_count())
  if start_up:
    start_up.leave(held.release)
  with held:
    yield held


def _settle(config: Any, workdir: files.Path) -> None:
  """Compares the config with that of the run that is there; of a new one, sees that its workdir and
  its data are apart.
  """
  if (workdir / "config.json").exists() and (steps := files.saved_steps(workdir)):
    # Step 0 is a conversion: only what its weights belong to is settled.
    weights = ["model", "disc", "task", "tokenizer", "signal", "text"]
    places = [p.field for p in configuration.places_of(config) if p.needed and "." in p.field]
    weights += [field.rpartition(".")[0] for field in places]
    within = weights if max(steps) == 0 else ("",)
    configuration.check_same(configuration.of_run(workdir), config, within)
  else:
    _check_apart(config, workdir)


def _check_apart(config: Any, workdir: files.Path) -> None:
  """Raises UserError where the run's own files would become its data."""
  place = config.data.get("path")
  if not place or files.is_remote(workdir) or config.data.name == "codes":
    return
  if pathlib.Path(workdir).resolve().is_relative_to(pathlib.Path(place).resolve()):
    raise UserError(
      f"--workdir={workdir}: lies within config.data.path={place}, so that its pictures would "
      "become data; choose another folder."
    )


def _begin(
  config: Any, workdir: files.Path, dataset: data.Dataset, checkpoints: checkpoint.Checkpoints
) -> tuple[Run, State, Batches, dict[str, Any]]:
  """(run, its state, its batches from there on, metrics not logged yet): restored, or begun."""
  # Before there is a Run: it is made for the shapes of the first batch, this process's share.
  mesh = sharding.make_mesh(**config.mesh)
  local = sharding.local_batch_size(config.batch_size, mesh)

  def open_stream(step: int) -> data.Stream:
    place = dict(process_index=jax.process_index(), process_count=jax.process_count())
    return dataset.train(local, seed=config.seed, step=step, **place)

  # A conversion's step 0 says nothing of the data to come.
  trained = any(files.saved_steps(workdir))
  spec = configuration.read_spec(workdir) if trained else None
  stream = first = None
  if spec is None:
    stream = open_stream(0)
    first = next(stream)
    spec = configuration.spec_of(first, config)
  run = Run(config, spec)
  if jax.process_index() == 0:
    configuration.save_spec(spec, workdir)
  if restored := checkpoints.restore(run.abstract, open_stream):
    if stream is not None:
      stream.close()
    state, stream, window = restored
    log.info("%s: continues from step %d", workdir, state.step)
    return run, state, Batches(run, stream), window
  state = _start(run, workdir if 0 in checkpoints.steps() else config.init_from)
  log.info("%s: starts on %d %s device(s)", workdir, jax.device_count(), jax.default_backend())
  return run, state, Batches(run, stream or open_stream(0), first), {}


def _start(run: Run, source: str | os.PathLike[str] | None) -> State:
  """The state of a new run: initialised from the seed, or with the parameters of the run in
  `source`.
  """
  parts = {}
  if source:
    # A discriminator comes along where both runs have the same one, and no export left it out; else
    # it starts afresh, with what belongs to it.
    before = configuration.of_run(source, "config.init_from")
    if before.task != run.config.task:
      raise UserError(
        f"config.init_from={source}: is a run of the task {before.task!r}, this one is of "
        f"{run.config.task!r}; give one of its kind (a prior's export has FILE/tokenizer)."
      )
    same = before.get("disc") == run.config.get("disc") and not files.is_packed(files.path(source))
    wanted = lambda tree: dict(tree) if same else {"model": tree["model"]}
    abstract = {"params": wanted(run.abstract.params), "stats": wanted(run.abstract.stats)}
    parts = checkpoint.restore_params(source, abstract)
  return run.init(jax.random.key(run.config["seed"]), **parts)


class Batches:
  """A stream's batches, prepared and placed on the devices; `first` was taken from it before."""

  def __init__(self, run: Run, stream: data.Stream, first: Any = None):
    self.stream, self._run, self._first = stream, run, first

  def next(self) -> Any:
    batch, self._first = self._first, None
    batch = next(self.stream) if batch is None else batch
    return sharding.to_global(self._run.task.prepare(batch), self._run.mesh)

  def close(self) -> None:
    self.stream.close()
