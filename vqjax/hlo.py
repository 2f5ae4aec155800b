"""What a compiled program does, read off its text: FLOPs, memory traffic and collectives.

XLA's own count has the body of a loop once. Here a loop counts by its trips, which stand in its
condition, and an array in on-chip memory (`S(1)` in its layout) is no traffic.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
  "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency",
}  # fmt: skip
_BETWEEN_SLICES = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
_BITS = {"pred": 8, "token": 0, "opaque": 0}


class Shape(NamedTuple):
  """One array: its type's name, its lengths, its layout as the program spells it."""

  type: str
  dims: tuple[int, ...]
  layout: str

  @property
  def fast(self) -> bool:
    """Whether it lies in on-chip memory."""
    return "S(1)" in self.layout

  @property
  def bytes(self) -> int:
    """What it takes in memory: a TPU fills up the innermost axes to whole tiles."""
    bits = re.search(r"\d+", self.type)  # bf16, s4, f8e4m3fn
    each = _BITS[self.type] if self.type in _BITS else int(bits[0] if bits else 0)
    return -(-math.prod(self._padded()) * each // 8)

  def _padded(self) -> tuple[int, ...]:
    order, _, tiling = self.layout.strip("{}").partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    if not tile:
      return self.dims
    dims = [self.dims[int(axis)] for axis in order.split(",") if axis]  # innermost first
    sides = [int(side) for side in tile[1].split(",")][::-1]
    sides += [1] * (len(dims) - len(sides))
    return tuple(-(-n // side) * side for n, side in zip(dims, sides))

  def __str__(self) -> str:
    return f"{self.type}[{','.join(map(str, self.dims))}]"


class Op(NamedTuple):
  """One instruction: `shapes` of its result (several of a tuple), names of its operands."""

  name: str
  code: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  root: bool
  text: str

  def attribute(self, name: str) -> str | None:
    """What stands after `name=` up to a comma, without the sign of a name."""
    found = re.search(rf"[ ,]{name}=%?([^,\s]+)", self.text)
    return found and found[1]

  @property
  def number(self) -> int | None:
    """What stands in its parentheses alone: a parameter's place, a constant's value."""
    found = re.search(rf"{self.code}\((\d+)\)", self.text)
    return int(found[1]) if found else None

  @property
  def scope(self) -> str:
    """The path of the module and primitive that it computes, or its own name."""
    found = re.search(r'op_name="([^"]*)"', self.text)
    return found[1] if found and found[1] else self.name

  @property
  def cycles(self) -> int:
    """The TPU compiler's estimate for one execution; 0 where it makes none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
    return int(found[1]) if found else 0


class Module:
  """A compiled program.

  Args:
    text: `Compiled.as_text()`.
  """

  def __init__(self, text: str):
    self._computations: dict[str, dict[str, Op]] = {}
    self._entry, current = "", {}
    told = re.search(r"num_partitions=(\d+)", text)
    self._devices = int(told[1]) if told else 1
    for line in text.splitlines():
      if (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)) is not None:
        current = self._computations[head[2]] = {}
        self._entry = head[2] if head[1] else self._entry
      elif (op := _parsed(line)) is not None:
        current[op.name] = op

  def steps(self) -> Iterator[tuple[Op, dict[str, Op], int]]:
    """(instruction, its computation, how often it runs): all that are not inside a fusion. Of
    branches each is counted once.
    """
    yield from self._steps(self._entry, 1)

  def _steps(self, name: str, trips: int) -> Iterator[tuple[Op, dict[str, Op], int]]:
    ops = self._computations[name]
    for op in ops.values():
      yield op, ops, trips
      if op.code == "while":
        yield from self._steps(op.attribute("body"), trips * self.trips(op, ops))
      elif op.code == "call":
        yield from self._steps(op.attribute("to_apply"), trips)
      elif op.code == "conditional":
        for branch in _branches(op):
          yield from self._steps(branch, trips)

  def trips(self, op: Op, ops: dict[str, Op]) -> int:
    """How often a `while` runs that counts up to a limit: 1 where nothing says."""
    if told := re.search(r'known_trip_count":\{"n":"(\d+)"', op.text):
      return int(told[1])
    first, condition = ops.get(op.operands[0]), self._computations[op.attribute("condition")]
    begin = [_value(name, ops, []) for name in first.operands] if first.code == "tuple" else []
    counts = self._compared(_root(condition), condition, [begin])
    if not counts or not counts[1]:
      return 1
    return max(1, -(-(counts[1] - (counts[0] or 0)) // self._stride(op, condition)))

  def _stride(self, op: Op, condition: dict[str, Op]) -> int:
    """What the body adds to the counter that the condition reads: 1 where that is unclear."""
    read = [x for x in condition.values() if x.code == "get-tuple-element"]
    body = self._computations[op.attribute("body")]
    root = _root(body)
    strides = []
    for x in read:
      found = body.get(root.operands[int(x.attribute("index"))])
      own = self.inside(found) if found else {}
      found, ops = (_root(own), own) if own else (found, body)
      if found is not None and found.code == "add":
        strides += [n for n in (_value(name, ops, []) for name in found.operands) if n]
    return min(strides, default=1)

  def _compared(self, op: Op, ops: dict[str, Op], given: list[Any]) -> list[int | None]:
    """What `op`, or the root of the fusion that it is, compares at the loop's begin: [a, b] of
    a < b; [] where it is another question.
    """
    values = [_value(name, ops, given) for name in op.operands]
    if own := self.inside(op):
      return self._compared(_root(own), own, values)
    if op.code != "compare" or "direction=LT" not in op.text:
      return []
    whole = ops[op.operands[0]].shapes[0].type.startswith(("s", "u"))
    return values if whole else []

  def inside(self, op: Op) -> dict[str, Op]:
    """The instructions of a fusion or of an asynchronous one; {} of any other."""
    return self._computations.get(op.attribute("calls") or "", {})

  def flops(self, op: Op, ops: dict[str, Op]) -> float:
    """Two for each multiplication of a matrix product or convolution, inside a fusion too; of a
    kernel what it says of itself.
    """
    if told := re.search(r'"cost_estimate":\{"flops":"(\d+)"', op.text):
      return float(told[1])
    if op.code == "dot":
      left = ops[op.operands[0]].shapes[0].dims
      axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.text)
      shared = [left[int(i)] for i in axes[1].split(",") if i] if axes else []
      return 2.0 * math.prod(op.shapes[0].dims) * math.prod(shared)
    if op.code == "convolution":
      return _convolution(op, *(ops[name].shapes[0].dims for name in op.operands))
    own = self.inside(op)
    return sum(self.flops(x, own) for x in own.values())

  def traffic(self, op: Op, ops: dict[str, Op]) -> int:
    """Bytes that one execution reads from and writes to main memory."""
    if op.code in FREE or op.code.endswith("-done") or op.code.endswith("-update"):
      return 0
    if op.code == "dynamic-slice" or op.code == "gather":
      return sum(2 * s.bytes for s in op.shapes if not s.fast)
    if op.code in ("dynamic-update-slice", "scatter"):
      return 2 * ops[op.operands[-1 if op.code == "scatter" else 1]].shapes[0].bytes
    if op.code in ("copy-start", "slice-start") or (op.code == "async-start"):
      target = min(op.shapes[:2], key=lambda s: s.bytes)
      sides = [*op.shapes[:1], ops[op.operands[0]].shapes[0]]
      return sum(target.bytes for side in sides if not side.fast)
    own = self.inside(op)
    given = [ops[name].shapes for name in op.operands if name in ops]
    if not own:
      written = 0 if op.code.endswith("-start") or op.code == "send" else _slow(op.shapes)
      return written + sum(map(_slow, given))
    read = 0
    for x in own.values():
      if x.code == "parameter" and not x.shapes[0].fast:
        if x.number < len(given) and not given[x.number][0].fast:
          read += min(x.shapes[0].bytes, self._read(x, own))
    return read + self._written(op.shapes, _root(own), own)

  def _read(self, source: Op, ops: dict[str, Op]) -> int:
    """Bytes of `source` that its computation asks for: a slice, or nothing of what is only
    overwritten. What it returns as it is goes on to whoever asked.
    """
    total = source.shapes[0].bytes if source.root else 0
    for op in ops.values():
      if source.name not in op.operands:
        continue
      place = op.operands.index(source.name)
      if op.code in ("dynamic-slice", "gather", "slice") and place == 0:
        total += op.shapes[0].bytes
      elif op.code == "dynamic-update-slice" and place == 0:
        total += 0
      elif op.code == "bitcast":
        total += self._read(op, ops)
      elif own := self.inside(op):
        same = [x for x in own.values() if x.code == "parameter" and x.number == place]
        total += self._read(same[0], own) if same else source.shapes[0].bytes
      else:
        total += source.shapes[0].bytes
    return total

  def _written(self, shapes: tuple[Shape, ...], root: Op, ops: dict[str, Op]) -> int:
    """Bytes that a fusion with this root writes: of an update in place the update alone."""
    if root.code == "tuple":
      parts = [ops[name] for name in root.operands]
      return sum(self._written((s,), x, ops) for s, x in zip(shapes, parts))
    if shapes[0].fast:
      return 0
    if root.code == "bitcast":
      return self._written(shapes, ops[root.operands[0]], ops)
    if root.code == "dynamic-update-slice":
      return ops[root.operands[1]].shapes[0].bytes
    if own := self.inside(root):
      return self._written(shapes, _root(own), own)
    return _slow(shapes)

  def collectives(self) -> dict[str, list[tuple[int, int]]]:
    """{kind: (bytes that a device gives or gets, devices of a group) of every execution}."""
    found = collections.defaultdict(list)
    for op, ops, trips in self.steps():
      for x, own in ((op, ops), *((x, self.inside(op)) for x in self.inside(op).values())):
        code = x.code.removesuffix("-start")
        if code in COLLECTIVES:
          given = sum(s.bytes for name in x.operands if name in own for s in own[name].shapes)
          # The larger side: what a gather gives out, what a scatter takes in.
          size = max(given, max((s.bytes for s in x.shapes), default=0))
          found[code] += [(size, _group(x) or self._devices)] * trips
    return dict(found)

  def sent_between_slices(self) -> list[int]:
    """Bytes of every array that a device hands to the network between slices."""
    return [
      ops[op.operands[0]].shapes[0].bytes
      for op, ops, trips in self.steps()
      for _ in range(trips)
      if op.code == "send" and _BETWEEN_SLICES in op.text
    ]


def _root(ops: dict[str, Op]) -> Op:
  """The instruction whose result is the computation's."""
  return next(op for op in ops.values() if op.root)


def _slow(shapes: tuple[Shape, ...]) -> int:
  return sum(s.bytes for s in shapes if not s.fast)


_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")


def _shapes(text: str) -> tuple[Shape, ...]:
  return tuple(
    Shape(kind, tuple(int(n.strip("<=")) for n in dims.split(",") if n), layout or "")
    for kind, dims, layout in _ARRAY.findall(text)
  )


def _closed(text: str) -> int:
  """Where the parenthesis that opens `text` closes."""
  depth = 0
  for place in (m.start() for m in re.finditer(r"[()]", text)):
    depth += 1 if text[place] == "(" else -1
    if not depth:
      return place
  return len(text)


def _parsed(line: str) -> Op | None:
  head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
  if head is None:
    return None
  rest = line[head.end() :]
  cut = _closed(rest) + 1 if rest.startswith("(") else rest.index(" ")
  shape, rest = rest[:cut], rest[cut:].lstrip()
  code, _, _ = rest.partition("(")
  rest = rest[len(code) :]
  given = rest[: _closed(rest) + 1]
  operands = tuple(re.findall(r"%([\w.\-]+)", given))
  return Op(head[2], code, _shapes(shape), operands, bool(head[1]), line)


def _value(name: str, ops: dict[str, Op], given: list[Any]) -> Any:
  """The integer that an instruction stands for, or None; a list of those in a tuple. `given` are
  those of its computation's parameters.
  """
  op = ops.get(name)
  if op is None:
    return None
  if op.code == "constant":
    return op.number
  if op.code == "parameter":
    return given[op.number] if op.number < len(given) else None
  if op.code == "get-tuple-element":
    values, index = _value(op.operands[0], ops, given), int(op.attribute("index"))
    return values[index] if isinstance(values, list) and index < len(values) else None
  return _value(op.operands[0], ops, given) if op.code in ("copy", "bitcast") else None


def _branches(op: Op) -> list[str]:
  listed = re.search(r"branch_computations=\{([^}]*)\}", op.text)
  if listed:
    return [name.strip(" %") for name in listed[1].split(",")]
  return [op.attribute(side) for side in ("true_computation", "false_computation")]


def _group(op: Op) -> int | None:
  """Devices that a collective joins; None is all."""
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", op.text):
    return int(iota[1])
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", op.text)
  return len(listed[1].split(",")) if listed else None


def _convolution(op: Op, left: tuple[int, ...], right: tuple[int, ...]) -> float:
  """Two for each product of an input with a weight; what lies in the padding is none."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.text)
  window = _window(op.text)
  pairs = [
    _pairs(
      left[labels[1].index(axis)],
      right[labels[2].index(axis)],
      op.shapes[0].dims[labels[3].index(axis)],
      *(window[key][int(axis)] for key in ("stride", "pad", "lhs_dilate", "rhs_dilate")),
    )
    for axis in labels[1]
    if axis.isdigit()
  ]
  out = op.shapes[0].dims
  features = out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
  return 2.0 * features * math.prod(pairs)


def _window(text: str) -> dict[str, collections.defaultdict[int, int]]:
  """{name: a value for each spatial axis} of a convolution's window."""
  inner = re.search(r"window=\{([^}]*)\}", text)
  given = dict(part.split("=") for part in inner[1].split()) if inner else {}
  found = {}
  for key, value in {"stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}.items():
    axes = given[key].split("x") if key in given else []
    own = {i: int(axis.split("_")[0]) for i, axis in enumerate(axes)}
    found[key] = collections.defaultdict(functools.partial(int, value), own)
  return found


def _pairs(
  size: int, kernel: int, out: int, stride: int, pad: int, dilated: int, spread: int
) -> int:
  """How many of out x kernel positions meet an input, along one axis."""
  if kernel == 1 and dilated == 1 and not pad:
    return out
  places = (o * stride - pad + k * spread for o, k in itertools.product(range(out), range(kernel)))
  return sum(0 <= p < size * dilated and p % dilated == 0 for p in places)
