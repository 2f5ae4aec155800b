"""Values and gradients of two ways to compute one thing, to be compared."""

import jax


def pulled(fn, *given):
  """(fn(*inputs), its cotangent pulled back to each of the inputs), as one program; `given` are the
  inputs and, last, the cotangent.
  """

  @jax.jit
  def run(*given):
    *inputs, cotangent = given
    out, back = jax.vjp(fn, *inputs)
    return out, *back(cotangent)

  return run(*given)
