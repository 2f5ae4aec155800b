"""Compile without the accelerator: python -m vqjax.compile --config=configs/vqgan_tpu.py
--topology=v5e:4x4

Compiles the very same step that training runs for a described TPU topology (needs `pip install
libtpu`, no TPU) and prints, for each chip: memory and whether it fits, FLOPs, bytes moved to and
from memory, collectives, the time that each of the three takes at the peak of every TPU, the
compiler's own estimate, and the fusions and arrays that take most of it, by the module they come
from. Loops count by their trips. FLOPs are those of matrix products and convolutions. Of our own
kernels the compiler estimates nothing, and the peak stands in.

A prior whose tokenizer is not trained yet compiles from the tokenizer's config: runs/NAME stands
for NAME.py beside the prior's config, and --config.tokenizer=FILE.py names another. With --cached
it reads codes (or floats) as `tokenize` writes them.
"""

from __future__ import annotations

import collections
import os
import pathlib
import re
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from vqjax import build, chips, cli, config as configuration, hlo, writers
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", required=True, metavar="FILE[:debug]")
  parser.add_argument(
    "--topology", default="v5e:2x2", help="e.g. v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:2x4"
  )
  parser.add_argument("--slices", type=int, default=1, help="of that topology, see config.mesh")
  parser.add_argument("--cached", action="store_true", help="the data are codes, not the signal")
  parser.add_argument("--top", type=int, default=10, help="fusions and arrays that are listed")
  args = parser.parse_args(argv)
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # What was compiled for chips that are not here cannot be read from the cache, and JAX says so.
  warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
  from jax.experimental import topologies

  try:
    devices = topologies.get_topology_desc(
      platform="tpu", topology_name=args.topology, num_slices=args.slices
    ).devices
  except Exception as e:
    reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
    raise UserError(
      f"--topology={args.topology}: cannot be described, {args.slices} of it ({reason}); pip "
      "install libtpu, and name e.g. v5e:4x4."
    ) from None
  config = configuration.load(args.config)
  configuration.override(config, overrides)
  config = configuration.complete(config)
  with tempfile.TemporaryDirectory() as folder:
    with_tokenizers(config, pathlib.Path(args.config.partition(":")[0]).parent, folder)
    step = _compiled(config, batch_of(config, args.cached), devices, args.topology)
  _report(step, devices, args.top)


def batch_of(config: Any, cached: bool = False) -> dict[str, Any]:
  """{field: ShapeDtypeStruct} of a batch, of latents that `tokenize` has computed where `cached`.

  Raises UserError for codes of a config that reads none.
  """
  import jax

  task = build.module("tasks", config.task)
  example = task.spec(config)
  if cached:
    if not hasattr(task, "cached_spec"):
      raise UserError(f"--cached: the task {config.task!r} reads no codes; leave it out.")
    example = task.cached_spec(config)
  return {
    name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    for name, (shape, dtype) in example.items()
  }


def with_tokenizers(config: Any, beside: pathlib.Path, folder: str) -> None:
  """Points a prior's config at workdirs below `folder` that have its tokenizers' configs and
  shapes, but no weights, where it names configs or runs that are not there.

  Args:
    beside: where NAME.py, or NAME.py:debug, stands for runs/NAME and runs/NAME_debug.
  """
  conditions = (config.get("condition") or {}).values()
  places = [config, *(c for c in conditions if hasattr(c, "get"))]
  for i, place in enumerate(places):
    if not (file := place.get("tokenizer") and _config_of(place["tokenizer"], beside)):
      continue  # whoever opens it says what is missing
    tokenizer = configuration.complete(configuration.load(file))
    workdir = pathlib.Path(folder) / f"tokenizer{i}"
    workdir.mkdir()
    configuration.save(tokenizer, workdir)
    configuration.save_spec(batch_of(tokenizer), workdir)
    place["tokenizer"] = str(workdir)


def _config_of(tokenizer: str, beside: pathlib.Path) -> str | None:
  """The config FILE.py[:argument] that a tokenizer's place names or stands for; None of a run that
  is there, or where there is no such config.
  """
  if re.search(r"\.py(:|$)", tokenizer):
    return tokenizer
  run = pathlib.Path(tokenizer)
  file = beside / f"{run.name.removesuffix('_debug')}.py"
  if run.exists() or not file.exists():
    return None
  return f"{file}:debug" if run.name.endswith("_debug") else str(file)


def _compiled(config: Any, spec: dict[str, Any], devices: Any, topology: str) -> Any:
  import jax

  from vqjax import sharding, train
  from vqjax.nn import target

  with target.tracing_for(devices):
    run = train.Run(config, spec, devices)
    batch = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding.batch_sharding(run.mesh))
      for k, v in spec.items()
    }
    lowered = run.step.lower(run.abstract, run.task.frozen.shapes(), batch)
    try:
      return lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      used = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm", str(e))
      used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", str(e))
      if not used:
        raise
      raise UserError(
        f"--topology={topology}: the step does not fit, it needs {used[1]} of {used[2]} a chip; "
        "take more chips, a smaller config.batch_size, config.mesh.fsdp to share the state, or "
        "config.model.remat."
      ) from None


class Work(NamedTuple):
  """What one instruction does in a step on one chip: `times` it runs, all of them together."""

  op: hlo.Op
  times: int
  flops: float
  bytes: int

  def seconds(self, chip: chips.Chip) -> float:
    """At the chip's peak, by what takes longer."""
    return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def _report(step: Any, devices: Any, top: int) -> None:
  """Prints the tables of a compiled step."""
  module, chip = hlo.Module(step.as_text()), chips.of(devices[0])
  work = [
    Work(op, times, times * module.flops(op, ops), times * module.traffic(op, ops))
    for op, ops, times in module.steps()
  ]
  collectives = module.collectives()
  rows = [("chips", f"{len(devices)} {devices[0].device_kind}")]
  sent = module.sent_between_slices()
  rows += _memory(step.memory_analysis(), chip) + _sums(work, collectives, sent, chip)
  print(writers.table(["what", "figure"], rows))
  linked = sum(_over_links(kind, *each) for kind, found in collectives.items() for each in found)
  limits = [_limits(name, work, linked) for name in chips.TPUS]
  print(writers.table(["at the peak of", "FLOPs", "bytes", "collectives", "FLOPs' share"], limits))
  heads = ["what takes longest", "times", "FLOPs", "bytes", "at the peak", "estimate"]
  print(writers.table(heads, _by_scope(work, chip or chips.CHIPS["v5e"])[:top]))
  print(writers.table(["largest arrays", "written by", "size"], _largest(work)[:top]))


def _memory(memory: Any, chip: chips.Chip | None) -> list[tuple[str, str]]:
  state, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  rows = [("state and batch per chip", _size(state)), ("temporaries per chip", _size(temporary))]
  if chip is not None:
    share = (state + temporary) / (chip.memory * 2**30)
    rows.append(("of the chip's memory", f"{share:.0%}"))
  return rows


def _sums(
  work: list[Work], collectives: Any, sent: Sequence[int], chip: chips.Chip | None
) -> list[tuple[str, str]]:
  flops, moved = sum(w.flops for w in work), sum(w.bytes for w in work)
  rows = [
    ("FLOPs per chip and step", f"{flops:.3e}"),
    ("bytes moved per chip and step", f"{moved:.3e}"),
    ("FLOPs per byte", f"{flops / max(moved, 1):.1f}"),
  ]
  for kind, found in collectives.items():
    rows.append((kind, f"{len(found)}, {_size(sum(size for size, _ in found))}"))
  if sent:
    rows.append(("sent between slices", f"{len(sent)}, {_size(sum(sent))}"))
  if chip is not None and (cycles := sum(w.op.cycles * w.times for w in work)):
    kernels = sum(w.seconds(chip) for w in work if w.op.code == "custom-call" and w.flops)
    seconds = cycles / chip.clock + kernels
    rows.append(("compiler's estimate", _time(seconds)))
    if kernels:
      rows.append(("of which kernels, at the peak", _time(kernels)))
    rows.append(("share of the peak in it", f"{flops / chip.flops / seconds:.0%}"))
  return rows


def _limits(name: str, work: list[Work], linked: float) -> list[str]:
  """Times at a chip's peaks, and the share of its FLOP/s where the longest of them rules."""
  chip = chips.CHIPS[name]
  flops, moved = sum(w.flops for w in work), sum(w.bytes for w in work)
  each = (flops / chip.flops, moved / chip.bandwidth, linked / chip.links)
  return [name, *map(_time, each), f"{each[0] / max(*each, 1e-30):.0%}"]


def _over_links(kind: str, size: int, group: int) -> float:
  """Bytes in and out of a chip for one collective of `size` bytes, on a ring."""
  if kind == "collective-permute":
    return 2 * size
  return (4 if kind == "all-reduce" else 2) * size * (group - 1) / group


def _by_scope(work: list[Work], chip: chips.Chip) -> list[list[str]]:
  """Rows of the scopes that take longest, first the longest: by the compiler's estimate, or at the
  chip's peaks where it makes none.
  """
  found = collections.defaultdict(list)
  for w in work:
    found[_short(w.op.scope)].append(w)
  rows = []
  for scope, own in found.items():
    peak = sum(w.seconds(chip) for w in own)
    estimate = sum(w.op.cycles * w.times for w in own) / chip.clock if chip.clock else 0.0
    flops, moved = sum(w.flops for w in own), sum(w.bytes for w in own)
    times = sum(w.times for w in own)
    row = [scope, str(times), f"{flops:.2e}", _size(moved), _time(peak), _time(estimate)]
    rows.append((max(estimate, peak), row))
  return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def _largest(work: list[Work]) -> list[list[str]]:
  """Rows of the arrays that are written to main memory, first the largest."""
  arrays = {
    (str(shape), _short(w.op.scope)): shape.bytes
    for w in work
    if w.op.code not in hlo.FREE
    for shape in w.op.shapes
    if not shape.fast
  }
  return [[*named, _size(n)] for named, n in sorted(arrays.items(), key=lambda pair: -pair[1])]


def _size(n: float) -> str:
  unit = max(0, min(3, (int(n).bit_length() - 1) // 10))
  return f"{n / 2 ** (10 * unit):.3g} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _time(seconds: float) -> str:
  return f"{1e3 * seconds:.3g} ms"


def _short(scope: str) -> str:
  """A scope without what every one has, a name without its number."""
  scope = re.sub(r"(\.\d+|\.clone)+$", "", scope.partition(";")[0])
  scope = scope.replace("checkpoint/rematted_computation", "again")
  noise = ("jit(_step)", "body", "closed_call", "while", "checkpoint", "Model")
  parts = [re.sub(r"^(transpose\()?jvp\((.*?)\)+$", _direction, p) for p in scope.split("/")]
  kept = [p for p in parts if p not in noise and "._" not in p]
  return "/".join(kept[:1] + kept[1:][-3:])


def _direction(found: re.Match) -> str:
  return f"{'backward' if found[1] else 'forward'} {found[2]}".strip()


if __name__ == "__main__":
  cli.run(main)
