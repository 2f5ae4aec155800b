"""What is read off a compiled program's text, against products counted by hand and XLA's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from vqjax import bench, hlo, sharding


def compiled(fn, *shapes, dtype="float32"):
  return jax.jit(fn).lower(*(jax.ShapeDtypeStruct(s, dtype) for s in shapes)).compile()


def totals(text):
  module = hlo.Module(text)
  steps = list(module.steps())
  return (
    sum(n * module.flops(op, ops) for op, ops, n in steps),
    sum(n * module.traffic(op, ops) for op, ops, n in steps),
  )


def test_loops_count_by_their_trips():
  """Also nested ones, and those whose backward pass walks back over what was kept."""

  def layers(x, w_5):
    inner = lambda x, w: (jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x), None)
    return jax.lax.scan(inner, x, w_5)[0].sum()

  once = 2 * 8 * 16 * 16
  assert totals(compiled(layers, (8, 16), (5, 16, 16)).as_text())[0] == 15 * once
  backward = compiled(jax.grad(layers, argnums=1), (8, 16), (5, 16, 16))
  assert totals(backward.as_text())[0] == 3 * 15 * once


def test_loops_that_count_in_twos():
  """As XLA leaves them where it has unrolled one."""
  twos = TPU.replace("%g = bf16", "%one = s32[]{:T(128)} constant(2)\n  %at = s32[]{:T(128)} "
                     "get-tuple-element(%t), index=0\n  %next = s32[]{:T(128)} add(%at, %one)\n"
                     "  %g = bf16", 1)  # fmt: skip
  body = "  ROOT %next_t = (s32[]{:T(128)}, bf16[64,128]{1,0}) tuple(%next, %g, %w)\n}\n\n%cond"
  twos = twos.replace("  ROOT %fusion.7", "  %fusion.7").replace("}\n\n%cond", body)
  assert totals(twos)[0] == 6 * 2 * 64 * 128 * 256


def test_a_loop_whose_end_is_not_known_counts_once():
  fn = lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 10, lambda x: x @ w, x)
  assert totals(compiled(fn, (8, 16), (16, 16)).as_text())[0] == 2 * 8 * 16 * 16


CONVOLUTIONS = {
  "same": dict(window_strides=(1, 1), padding="SAME"),
  "strided": dict(window_strides=(2, 2), padding=((0, 1), (0, 1))),
  "dilated": dict(window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 2)),
  "grouped": dict(window_strides=(1, 1), padding="SAME", feature_group_count=2),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_count_as_xla_does(kind):
  groups = CONVOLUTIONS[kind].get("feature_group_count", 1)

  def fn(x, w):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=dims, **CONVOLUTIONS[kind]).sum()

  shapes = (2, 9, 9, 4), (3, 3, 4 // groups, 6)
  lowered = jax.jit(lambda x, w: fn(x, w)).lower(*map(jnp.zeros, shapes)).compile()
  x = np.zeros(shapes[0])
  assert totals(lowered.as_text())[0] == by_hand(x, shapes[1], CONVOLUTIONS[kind])


def by_hand(x, weights, how):
  """Twice the products of a convolution whose input is there, counted with ones."""
  ones = lambda shape: jnp.ones(shape, jnp.float32)
  out = jax.lax.conv_general_dilated(
    ones(x.shape), ones(weights), dimension_numbers=("NHWC", "HWIO", "NHWC"), **how
  )
  return 2 * float(out.sum())


def test_bytes_are_what_is_read_and_written():
  assert totals(compiled(lambda x: x + 1, (256, 64)).as_text())[1] == 2 * 4 * 256 * 64
  # A slice of a large array is no pass over it, nor is the place of an update.
  size = 4 * 1024
  taken = lambda x: jax.lax.dynamic_slice(x, (3, 0), (1, 1024)) * 2
  assert totals(compiled(taken, (4096, 1024)).as_text())[1] <= 3 * size

  def put(x_100):
    rows = jnp.arange(100, dtype=jnp.float32)
    step = lambda x, i: (x.at[i.astype(int)].set(i * jnp.ones(1024)), None)
    return jax.lax.scan(step, x_100, rows)[0]

  moved = totals(jax.jit(put, donate_argnums=0).lower(jnp.zeros((100, 1024))).compile().as_text())
  assert moved[1] < 20 * 100 * size  # not 100 times the whole


def test_collectives_say_their_size_and_group():
  mesh = sharding.make_mesh()
  over = NamedSharding(mesh, P("data"))
  x = jax.ShapeDtypeStruct((8, 32), "float32", sharding=over)
  text = jax.jit(lambda x: x.sum(0)).lower(x).compile().as_text()
  assert hlo.Module(text).collectives() == {"all-reduce": [(4 * 32, jax.device_count())]}


def test_an_asynchronous_pair_counts_once():
  """And a name in the metadata is no instruction."""
  text = """
ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %a = f32[4]{0} all-reduce(%x), replica_groups={}
  %b = (f32[4]{0}, f32[4]{0}) all-gather-start(%a)
  %c = f32[4]{0} all-gather-done(%b)
  ROOT %d = f32[4]{0} fusion(%c), metadata={op_name="all-to-all"}
}
"""
  found = hlo.Module(text).collectives()
  assert {kind: len(each) for kind, each in found.items()} == {"all-reduce": 1, "all-gather": 1}


TPU = """
HloModule jit_f, is_scheduled=true

%fused (p.0: bf16[64,128], p.1: bf16[1,128,256]) -> bf16[64,256] {
  %p.0 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.1 = bf16[1,128,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  %b = bf16[128,256]{1,0:T(8,128)(2,1)} bitcast(%p.1)
  ROOT %c = bf16[64,256]{1,0:T(8,128)(2,1)} convolution(%p.0, %b), dim_labels=bf_io->bf
}

%body (t: (s32[], bf16[64,128])) -> (s32[], bf16[64,128]) {
  %t = (s32[]{:T(128)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/bf16[1,128,256]{2,1,0}) parameter(0)
  %g = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=1
  %w = bf16[1,128,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%t), index=2
  ROOT %fusion.7 = bf16[64,256]{1,0:T(8,128)(2,1)} fusion(%g, %w), kind=kOutput, calls=%fused, metadata={op_name="jit(f)/Model/mlp/dot_general"}, backend_config={"window_config":{"estimated_cycles":"1200"}}
}

%cond (s: (s32[], bf16[64,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %s = (s32[]{:T(128)}, bf16[64,128]{1,0}, bf16[1,128,256]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (x: bf16[64,128]) -> bf16[64,256] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %start = (bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x)
  %done = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%start)
  %init = (s32[]{:T(128)}, bf16[64,128]{1,0:S(1)}, bf16[1,128,256]{2,1,0}) tuple(%done)
  ROOT %loop = (s32[]{:T(128)}, bf16[64,128]{1,0:S(1)}, bf16[1,128,256]{2,1,0}) while(%init), condition=%cond, body=%body
}
"""  # noqa: E501


def test_a_tpu_program():
  """Trips that the condition alone tells, arrays in fast memory, the compiler's cycles."""
  module = hlo.Module(TPU)
  flops, moved = totals(TPU)
  assert flops == 12 * 2 * 64 * 128 * 256
  # Each time the weights in, the product out; once the input into fast memory.
  assert moved == 12 * 2 * (128 * 256 + 64 * 256) + 2 * 64 * 128
  assert sum(n * op.cycles for op, _, n in module.steps()) == 12 * 1200
  (fusion,) = [op for op, *_ in module.steps() if op.code == "fusion"]
  assert fusion.scope == "jit(f)/Model/mlp/dot_general"
  assert [str(s) for s in fusion.shapes] == ["bf16[64,256]"]


def test_what_a_fusion_hands_on_to_another_is_read():
  """As TPUs' compiler leaves an operand whose layout alone is another."""
  inner = """
%same (q: bf16[64,128]) -> bf16[64,128] {
  %q = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %as = bf16[64,128]{1,0:T(8,128)(2,1)} bitcast(%q)
}

%fused ("""
  slow = TPU.replace("S(1)", "").replace("%fused (", inner.lstrip(), 1)
  through = slow.replace("convolution(%p.0, %b)", "convolution(%on, %b)").replace(
    "  %b = bf16", "  %on = bf16[64,128]{1,0} fusion(%p.0), kind=kLoop, calls=%same\n  %b = bf16", 1
  )
  assert totals(through) == totals(slow)


@pytest.mark.parametrize(
  "text, size",
  [
    ("bf16[8,256,64]{2,0,1:T(8,128)(2,1)}", 2 * 8 * 256 * 128),  # 64 channels fill half a lane
    ("bf16[8,256,3]{0,2,1:T(4,128)(2,1)S(1)}", 2 * 128 * 256 * 4),
    ("f32[1000]{0:T(1024)}", 4 * 1024),
    ("f32[10,3]{1,0}", 4 * 30),
    ("pred[]{:T(512)}", 1),
    ("s4[7]", 4),
  ],
)
def test_arrays_fill_whole_tiles(text, size):
  (shape,) = hlo._shapes(text)
  assert shape.bytes == size


def test_a_kernel_says_its_own_flops():
  kernel = """
ENTRY %main (x: bf16[64,128]) -> bf16[64,128] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %k = bf16[64,128]{1,0:T(8,128)(2,1)} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"1234","transcendentals":"5","bytes_accessed":"9"}}}
}
"""  # noqa: E501
  assert totals(kernel) == (1234, 2 * 2 * 64 * 128)


def test_without_loops_flops_are_xlas():
  fn = lambda x, w: (x @ w) @ w.T
  program = compiled(fn, (64, 32), (32, 48))
  assert totals(program.as_text())[0] == pytest.approx(bench.flops(program), rel=0.01)


SLICES = """HloModule jit_step, num_partitions=8

ENTRY %main (p.0: bf16[64,128]) -> token[] {
  %p.0 = bf16[64,128]{1,0} parameter(0)
  %after = token[] after-all()
  %send = (bf16[64,128]{1,0}, u32[], token[]) send(%p.0, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %other = (bf16[64,128]{1,0}, u32[], token[]) send(%p.0, %after), channel_id=3, is_host_transfer=true
  ROOT %done = token[] send-done(%send), channel_id=2
}
"""  # noqa: E501


def test_what_is_sent_between_slices_is_read_once():
  assert hlo.Module(SLICES).sent_between_slices() == [2 * 64 * 128]
  assert totals(SLICES)[1] == 2 * 2 * 64 * 128
