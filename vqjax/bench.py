"""Measure speed: python -m vqjax.bench --config=configs/vqgan_imagenet_f16_1024.py[:debug]
[--data=PATH] [--config.FIELD=VALUE …]

Prints the times of initialisation and of the step's compilation, step time (median and spread of
repeats), examples/s, model FLOPs and their share of the device's peak where that is known, memory,
and the input pipeline's own examples/s: the pipeline must not be what limits. `--suite=NAME` runs
one of the comparisons in vqjax/suites instead.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vqjax import chips, cli, config as configuration


def time_calls(
  fns: Mapping[str, Callable[[], Any]], repeats: int, calls: int = 1
) -> dict[str, list[float]]:
  """Seconds per call of each function, `repeats` times, taking turns so that a drifting machine
  hits all alike.
  """
  seconds: dict[str, list[float]] = {name: [] for name in fns}
  for fn in fns.values():
    jax.block_until_ready(fn())
  for _ in range(repeats):
    for name, fn in fns.items():
      start = time.perf_counter()
      for _ in range(calls):
        out = fn()
      jax.block_until_ready(out)
      seconds[name].append((time.perf_counter() - start) / calls)
  return seconds


def stepper(config: Any, batch: Mapping[str, Any]) -> Callable[[], Any]:
  """A call that trains a step more, always on this batch of a completed config's data; it returns
  the metrics.
  """
  from vqjax import sharding, train

  run = train.Run(config, configuration.spec_of(batch, config))
  state, frozen = run.init(jax.random.key(0)), run.load_frozen()
  placed = sharding.to_global(run.task.prepare(batch), run.mesh)

  def step() -> Any:
    nonlocal state
    state, metrics = run.step(state, frozen, placed)
    return metrics

  return step


def flops(compiled: Any) -> float:
  """XLA's count for one execution; the body of a loop counts once."""
  analysis = compiled.cost_analysis()
  return (analysis[0] if isinstance(analysis, list) else analysis).get("flops", 0.0)


def bench_config(config: Any, repeats: int) -> list[tuple[str, str]]:
  """Rows (what, figure) for one config's training step and input pipeline."""
  from vqjax import data, files, sharding, train

  config = configuration.complete(config)
  mesh = sharding.make_mesh(**config.mesh)
  local = sharding.local_batch_size(config.batch_size, mesh)
  dataset = data.Dataset(config.data, config.ops)
  with tempfile.TemporaryDirectory() as folder:
    config = train.begun(config, dataset, files.path(folder))
    return _bench_run(config, dataset, local, repeats)


def _bench_run(config: Any, dataset: Any, local: int, repeats: int) -> list[tuple[str, str]]:
  """The same of a config that its task has begun."""
  from vqjax import sharding, train
  from vqjax.data import memory

  stream = dataset.train(local, seed=config.seed)
  first = next(stream)
  run = train.Run(config, configuration.spec_of(first, config))
  frozen = run.load_frozen()
  batch = sharding.to_global(run.task.prepare(first), run.mesh)
  start = time.perf_counter()
  step = run.step.lower(run.abstract, frozen, batch).compile()
  compile_seconds = time.perf_counter() - start
  start = time.perf_counter()
  state = jax.block_until_ready(run.init(jax.random.key(config.seed)))
  init_seconds = time.perf_counter() - start

  def one_step() -> Any:
    nonlocal state
    state, metrics = step(state, frozen, batch)
    return metrics

  # What was made ahead meanwhile says nothing of how long it takes.
  num = max(2 * (memory.THREADS + 1), 4 * repeats)
  for _ in range(num):
    next(stream)
  start = time.perf_counter()
  for _ in range(num):
    next(stream)
  pipeline = (time.perf_counter() - start) / num
  seconds = time_calls({"step": one_step}, repeats)["step"]
  stream.close()
  median = statistics.median(seconds)
  parameters = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in state.params.items()}
  rows = [
    ("devices", f"{jax.device_count()} {jax.devices()[0].device_kind}"),
    ("batch size", f"{config.batch_size}"),
    *((f"parameters, {k}", f"{v:,}") for k, v in parameters.items()),
    ("initialisation", f"{init_seconds:.1f} s, compiled and run"),
    ("compile time of a step", f"{compile_seconds:.1f} s"),
    (
      "step time",
      f"{1e3 * median:.1f} ms (from {1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f}, "
      f"{repeats} repeats)",
    ),
    ("step", f"{config.batch_size / median:.1f} examples/s"),
    ("input pipeline", f"{config.batch_size / pipeline:.1f} examples/s"),
  ]
  return rows + _flop_rows(run, state, frozen, batch, step, median) + _memory_rows(step)


def _flop_rows(
  run: Any, state: Any, frozen: Any, batch: Any, step: Any, seconds: float
) -> list[tuple[str, str]]:
  total = flops(step) * jax.device_count()
  rows = [("FLOPs of a step", f"{total:.3e}")]
  if chip := chips.of(jax.devices()[0]):
    share = total / seconds / (chip.flops * jax.device_count())
    rows.append(("share of the device's bf16 peak", f"{share:.1%}"))
  if "disc" in state.params:
    once = 0.0
    for fn in passes(run.task.info.modules).values():
      grad = jax.jit(jax.grad(fn, argnums=0))
      compiled = grad.lower(state.params, state.stats, frozen, batch).compile()
      once += flops(compiled) * jax.device_count()
    rows.append(("FLOPs over the players' passes counted once", f"{total / once:.3f}"))
  return rows


def passes(run: Any) -> dict[str, Callable[..., jax.Array]]:
  """Each player's forward and backward pass and no more: what a step's FLOPs are compared with.

  Args:
    run: a vqjax.tasks.autoencode.Autoencode.

  Returns:
    {player: fn(params, stats, frozen, batch) -> scalar}, whose gradients are the passes.
  """
  import jax.numpy as jnp

  from vqjax.nn import losses

  def model(params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """The model's own terms, the adversarial one through a discriminator that stands still."""
    x = run.input(batch)
    (recon, quantized), _ = run.model.apply(
      {"params": params["model"], **stats["model"]},
      x,
      train=True,
      step=jnp.zeros((), jnp.int32),
      rngs={"codes": jax.random.key(0), "dropout": jax.random.key(1)},
      mutable=list(stats["model"]),
    )
    total = run.distortion(recon, x, frozen)[0] + quantized.loss
    if run.disc is None:
      return total
    still = jax.lax.stop_gradient(params["disc"])
    (logits, _), _ = run.judge(still, stats["disc"], run.judged(recon))
    return total + losses.generator_loss(run.weights.adversarial, logits)

  def disc(params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """Both images judged, with gradients for the discriminator."""
    del frozen
    x = run.input(batch)
    (real, _), after = run.judge(params["disc"], stats["disc"], x)
    (fake, _), _ = run.judge(params["disc"], after, x[::-1])
    return losses.discriminator_loss(run.weights.adversarial, real, fake)

  return {"model": model} if run.disc is None else {"model": model, "disc": disc}


def _memory_rows(step: Any) -> list[tuple[str, str]]:
  memory = step.memory_analysis()
  mib = lambda n: f"{n / 2**20:,.0f} MiB"
  rows = [
    ("memory of the state and batch, per device", mib(memory.argument_size_in_bytes)),
    ("temporary memory of a step, per device", mib(memory.temp_size_in_bytes)),
  ]
  stats = jax.devices()[0].memory_stats() or {}
  return rows + (
    [("peak memory in use", mib(stats["peak_bytes_in_use"]))]
    if "peak_bytes_in_use" in stats
    else []
  )


def main(argv: Sequence[str]) -> None:
  from vqjax import build, data, writers

  suites = cli.parser(__doc__, add_help=False)
  suites.add_argument("--suite")
  chosen, argv = suites.parse_known_args(argv)
  if chosen.suite:
    build.module("suites", chosen.suite).main(argv)
    return
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(
    f"{__doc__}\nsuites, each with its own --help: {', '.join(build.names('suites'))}"
  )
  parser.add_argument("--config", required=True, metavar="FILE[:debug]", help="or --suite=NAME")
  parser.add_argument("--data", metavar="PATH")
  parser.add_argument("--repeats", type=cli.count, default=10)
  args = parser.parse_args(argv)
  config = configuration.load(args.config)
  if args.data is not None:
    config.data = data.resolve(args.data)
  configuration.override(config, overrides)
  print(writers.table(["what", "figure"], bench_config(config, args.repeats)))


if __name__ == "__main__":
  cli.run(main)
