"""A categorical posterior over codes: Gumbel-softmax or Gumbel-max, and KL to the uniform prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized, quantized

# How many arrays of its tile's [T, K] the backward pass holds at once.
_ALIVE = 4

# A constant, or (from, to, steps, shape of the way).
Schedule = float | tuple[float, float, int, str]


def schedule(value: Schedule, step: jax.Array | None) -> jax.Array:
  """The value at `step` (None: at the end).

  Shapes: "linear", "cosine" (half a period), "exponential".
  """
  if not isinstance(value, tuple):
    return jnp.float32(value)
  start, end, steps, shape = value
  t = (
    jnp.float32(1.0) if step is None else jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
  )
  if shape == "exponential":
    return jnp.float32(start) * jnp.power(jnp.float32(end / start), t)
  return start + (end - start) * (t if shape == "linear" else 0.5 * (1.0 - jnp.cos(jnp.pi * t)))


def _check(name: str, value: Schedule, least: Literal["at least 0", "above 0"]) -> None:
  """Raises UserError unless `value` is a finite number of at least this, or a schedule of such."""
  numbers = (value,)
  if isinstance(value, (tuple, list)):
    shapes = ("linear", "cosine", "exponential")
    numeric = len(value) == 4 and all(isinstance(v, (int, float)) for v in value[:3])
    if not numeric or not 0 < value[2] < math.inf or value[3] not in shapes:
      raise UserError(
        f"{name}: {value!r} is no schedule; "
        f"give (from, to, steps above 0, one of {', '.join(shapes)})."
      )
    numbers = value[:2]
    if value[3] == "exponential":
      least = "above 0"
  for number in numbers:
    if not math.isfinite(number) or number < 0 or (number == 0 and least == "above 0"):
      raise UserError(f"{name}: {value!r} is out of range; give numbers {least}.")


class Model(nn.Module):
  """Samples one of K codes per position from logits (arXiv 1611.01144, 1611.00712; DALL·E's dVAE,
  arXiv 2102.12092).

  In training noise is added; evaluation takes the most likely code. The KL to the uniform prior is
  sum_k p (log p + log K), averaged over positions, in nats. Variables: params `codebook` [K, D]
  and, with a projection, `proj`. It
  cannot be a level of `residual`: codes learn through the output, of which `residual` passes on the
  first level's gradient only.

  Attributes:
    codebook_size: K.
    dim: D.
    projection: "linear" makes logits of `dim` channels here; "none" reads K channels as logits (the
      OpenAI dVAE).
    mode: "soft" mixes codes by Gumbel-softmax; "hard" takes the largest, with the soft gradient;
      "max" takes an exact sample (Gumbel-max) without relaxation, so no gradient of the
      reconstruction reaches the logits.
    temperature: of the softmax: a number or (from, to, steps, "linear" | "cosine" | "exponential").
    kl_weight: of the KL, likewise.
  """

  codebook_size: int = 1024
  dim: int = 64
  projection: Literal["linear", "none"] = "linear"
  mode: Literal["soft", "hard", "max"] = "hard"
  temperature: Schedule = 1.0
  kl_weight: Schedule = 5e-4

  width = property(lambda self: self.dim)
  num_codebooks = 1
  as_level = "none"

  def __post_init__(self):
    checks.within(self, "codebook_size", at_least=1, at_most=2**30)
    checks.within(self, "dim", at_least=1)
    _check("temperature", self.temperature, "above 0")
    _check("kl_weight", self.kl_weight, "at least 0")
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.dim if self.projection == "linear" else self.codebook_size

  def setup(self):
    self.codebook = self.param(
      "codebook", nn.initializers.normal(1.0), (self.codebook_size, self.dim)
    )
    if self.projection == "linear":
      self.proj = nn.Dense(
        self.codebook_size, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST
      )

  def logits(self, z: jax.Array) -> jax.Array:
    """Unnormalised log-probabilities, float32 [..., K], of the input."""
    logits_NK = self._to_logits()(codebook.rows(z, self.input_width))
    return logits_NK.reshape(*z.shape[:-1], self.codebook_size)

  def _to_logits(self) -> Callable[[jax.Array], jax.Array]:
    """From positions [N, C] to float32 [N, K]: a function of arrays, as a loop needs."""
    if self.projection == "none":
      return lambda z_NK: z_NK.astype(jnp.float32)
    if self.is_initializing():
      self.proj(jnp.zeros((1, self.dim)))
    params = self.proj.variables["params"]
    dense = lambda z_ND: codebook.dot("nd,dk->nk", z_ND, params["kernel"]) + params["bias"][None]
    return lambda z_ND: dense(z_ND.astype(jnp.float32))

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    weight, temperature = schedule(self.kl_weight, step), schedule(self.temperature, step)
    key = self.make_rng("codes") if train else None
    z_NC = codebook.rows(z, self.input_width, z.dtype)
    ids_N, kl_N, soft_ND = self._drawn(z_NC, key, temperature)
    kl, mixed = jnp.mean(kl_N), train and self.mode == "soft"
    q_ND = soft_ND if mixed else codebook.lookup(self.codebook, ids_N)
    if train and self.mode == "hard":
      # One-hot + soft - sg(soft), times the codebook, without the one-hot.
      q_ND += codebook.zero_with_gradient(soft_ND)
    terms = {"kl": kl, "kl_weight": weight, "temperature": temperature}
    return quantized(z, q_ND, ids_N, weight * kl, terms, self.codebook_size)

  def _drawn(
    self, z_NC: jax.Array, key: jax.Array | None, temperature: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(ids [N], KL [N], soft mixtures of codes [N, D]) with noise from `key`, or the most likely
    without; None in place of mixtures where nothing is mixed.

    In tiles whose backward pass draws the same noise again, so that [N, K] never exists beside an
    input of that width and its gradient.
    """
    to_logits, codes, values_KD = self._to_logits(), self.codebook_size, self.codebook
    if self.mode == "hard":
      values_KD = jax.lax.stop_gradient(values_KD)

    @jax.checkpoint
    def tile(i: jax.Array, z_TC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
      logits_TK = to_logits(z_TC)
      log_p_TK = jax.nn.log_softmax(logits_TK)
      kl_T = jnp.sum(jnp.exp(log_p_TK) * (log_p_TK + jnp.log(codes)), axis=-1)
      if key is not None:
        logits_TK += jax.random.gumbel(jax.random.fold_in(key, i), logits_TK.shape)
      ids_T = jnp.argmax(logits_TK, axis=-1).astype(jnp.int32)
      if key is None or self.mode == "max":
        return ids_T, kl_T, None
      p_TK = jax.nn.softmax(logits_TK / temperature)
      return ids_T, kl_T, codebook.dot("tk,kd->td", p_TK, values_KD)

    body = lambda i, _, z_TC: (i + 1, tile(i, z_TC))
    return codebook.scan_tiles(body, jnp.int32(0), [z_NC], columns=_ALIVE * codes)[1]

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self.codebook, ids)
