"""What a compiled training step costs one chip: memory, FLOPs, bytes and collectives, the time that
each takes at the peak of every TPU, and what takes longest by the module that it comes from.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vqjax import chips, hlo, writers


class Work(NamedTuple):
  """What one instruction does in a step on one chip: `times` it runs, all of them together."""

  op: hlo.Op
  times: int
  flops: float
  bytes: int

  def seconds(self, chip: chips.Chip) -> float:
    """At the chip's peak, by what takes longer."""
    return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


class Sums(NamedTuple):
  """Of a step on one chip: memory in bytes, the most of it at one time, FLOPs, bytes moved and over
  links, and seconds by the compiler's estimate, with our own kernels at the peak; 0.0 where it
  makes none.
  """

  state: int
  temporary: int
  peak: int
  flops: float
  moved: float
  linked: float
  seconds: float
  kernels: float


def sums(step: Any, work: list[Work], collectives: Any, chip: chips.Chip | None) -> Sums:
  memory, kernels, seconds = step.memory_analysis(), 0.0, 0.0
  linked = sum(_over_links(kind, *each) for kind, found in collectives.items() for each in found)
  if chip is not None and (cycles := sum(w.op.cycles * w.times for w in work)):
    kernels = sum(w.seconds(chip) for w in work if w.op.code == "custom-call" and w.flops)
    seconds = cycles / chip.clock + kernels
  flops, moved = sum(w.flops for w in work), sum(w.bytes for w in work)
  state, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  peak = getattr(memory, "peak_memory_in_bytes", 0) or state + temporary
  return Sums(state, temporary, peak, flops, moved, linked, seconds, kernels)


def read(step: Any) -> tuple[hlo.Module, list[Work]]:
  """A compiled step's program, and what each of its instructions does."""
  module = hlo.Module(step.as_text())
  return module, [
    Work(op, times, times * module.flops(op, ops), times * module.traffic(op, ops))
    for op, ops, times in module.steps()
  ]


def report(step: Any, devices: Any, top: int) -> None:
  """Prints the tables of a compiled step."""
  (module, work), chip = read(step), chips.of(devices[0])
  collectives = module.collectives()
  total = sums(step, work, collectives, chip)
  rows = [("chips", f"{len(devices)} {devices[0].device_kind}")]
  rows += _rows(total, collectives, module.sent_between_slices(), chip)
  print(writers.table(["what", "figure"], rows))
  limits = [_limits(name, total) for name in chips.TPUS]
  print(writers.table(["at the peak of", "FLOPs", "bytes", "collectives", "FLOPs' share"], limits))
  heads = ["what takes longest", "times", "FLOPs", "bytes", "at the peak", "estimate"]
  print(writers.table(heads, _by_scope(work, chip or chips.CHIPS["v5e"])[:top]))
  print(writers.table(["largest arrays", "written by", "size"], _largest(work)[:top]))


def _rows(
  total: Sums, collectives: Any, sent: Sequence[int], chip: chips.Chip | None
) -> list[tuple[str, str]]:
  rows = [
    ("state and batch per chip", _size(total.state)),
    ("temporaries per chip", _size(total.temporary)),
  ]
  if chip is not None:
    share = total.peak / (chip.memory * 2**30)
    rows.append(("of the chip's memory, at the most", f"{share:.0%}"))
  rows += [
    ("FLOPs per chip and step", f"{total.flops:.3e}"),
    ("bytes moved per chip and step", f"{total.moved:.3e}"),
    ("FLOPs per byte", f"{total.flops / max(total.moved, 1):.1f}"),
  ]
  for kind, found in collectives.items():
    rows.append((kind, f"{len(found)}, {_size(sum(size for size, _ in found))}"))
  if sent:
    rows.append(("sent between slices", f"{len(sent)}, {_size(sum(sent))}"))
  if chip is not None and total.seconds:
    rows.append(("compiler's estimate", _time(total.seconds)))
    if total.kernels:
      rows.append(("of which kernels, at the peak", _time(total.kernels)))
    rows.append(("share of the peak in it", f"{total.flops / chip.flops / total.seconds:.0%}"))
  return rows


def _limits(name: str, total: Sums) -> list[str]:
  """Times at a chip's peaks, and the share of its FLOP/s where the longest of them rules."""
  chip = chips.CHIPS[name]
  each = (total.flops / chip.flops, total.moved / chip.bandwidth, total.linked / chip.links)
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
