"""Class labels: one token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks
from vqjax.conditions import Context, Lead, Part, per_example, require
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
  """The batch's `label`, int32 `[B]`.

  Fields:
    classes: how many there are.
  """

  classes: int

  field: ClassVar[str] = "label"
  public: ClassVar[bool] = True
  order: ClassVar[int] = 0
  help: ClassVar[str] = "a class, several separated by commas (one row each), or 'all'"

  def __post_init__(self) -> None:
    checks.positive(self, "classes")

  @classmethod
  def begin(cls, values: Mapping[str, Any], dataset: Any, workdir: Any) -> dict[str, Any]:
    """Raises UserError where the data have another class, before it is met in some late step."""
    del workdir
    for split in ("train", "eval") if dataset else ():
      if (labels := dataset.labels(split)) is not None:
        cls(**values)._checked(labels)
    return dict(values)

  def _checked(self, values: np.ndarray) -> np.ndarray:
    source = f"config.condition.label.classes={self.classes}"
    return checks.classes(values, self.classes, self.field, source)

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    del ops
    return (), "int32"

  def bind(self, context: Context) -> Lead:
    require(context, self.field, "config.condition.label")

    def prepare(values: np.ndarray, scale: tuple[float, ...] = ()) -> np.ndarray:
      del scale
      return self._checked(values)

    def tokens(values: jax.Array, frozen: Any) -> tuple[jax.Array]:
      del frozen
      return (values.astype(jnp.int32)[:, None],)

    given = lambda value, num: per_example(self.field, value, num, axes=0)
    return Lead((Part((1,), self.classes, spatial=False),), prepare, tokens, given)

  def parse(self, text: str, size: tuple[int, ...]) -> np.ndarray:
    del size
    if text == "all":
      return np.arange(self.classes)
    try:
      return np.asarray([int(part) for part in text.split(",")])
    except ValueError:
      raise UserError(
        f"--label={text}: is no class; give a number, several separated by commas, or 'all'."
      ) from None
