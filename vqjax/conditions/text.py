"""Captions: tokens of a byte-pair encoding, modelled in one stream with the codes (DALL·E, arXiv
2102.12092).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields, files, pictures
from vqjax.conditions import Context, Lead, Part, require
from vqjax.data import captions
from vqjax.errors import UserError

OPTION = "config.condition.text"


@dataclasses.dataclass(frozen=True)
class Condition:
  """The batch's `text`, a list of B captions. Places after a caption's end have a padding token
  each; the empty caption is padding alone.

  Fields:
    bpe: file of the byte-level encoding (GPT-2's and CLIP's too, see vqjax.data.text); None is one
      trained on the captions of the run's data, which then stands in its workdir as bpe.json.
    size: of the vocabulary; that of a file may be smaller.
    length: tokens of a caption; what is longer is cut, with a count in the log.
    lower: whether captions are lower-cased.
    predicted: weight of the text in the loss, the codes have the rest; 1/8 in the paper. Counted
      are a caption's tokens and the padding that ends it. 0: the text is given and not learned.
  """

  bpe: str | None = fields.part(None)
  size: int = 16_384
  length: int = 256
  lower: bool = True
  predicted: float = 1 / 8

  field: ClassVar[str] = "text"
  public: ClassVar[bool] = True
  order: ClassVar[int] = 1
  help: ClassVar[str] = "a caption"

  def __post_init__(self) -> None:
    if self.size < 256:
      raise UserError(f"size: {self.size} is too small; there are 256 bytes.")
    checks.positive(self, "length")
    checks.within(self, "predicted", at_least=0, below=1)

  @classmethod
  def begin(cls, values: Mapping[str, Any], dataset: Any, workdir: files.Path) -> dict[str, Any]:
    """`values` with the workdir's own file as `bpe`, see vqjax.data.captions.keep, whose errors it
    raises.
    """
    text = cls(**values).vocabulary.text
    return dict(values) | {"bpe": captions.keep(text, OPTION, dataset, workdir)}

  @property
  def vocabulary(self) -> Vocabulary:
    return Vocabulary(captions.Text(self.bpe, self.size, self.length, self.lower))

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    del ops
    return (self.length,), "int32"

  def bind(self, context: Context) -> Lead:
    require(context, self.field, OPTION)
    vocabulary = self.vocabulary

    def prepare(values: Sequence[str], scale: tuple[float, ...] = ()) -> np.ndarray:
      del scale
      return vocabulary.captions(list(values))

    def tokens(ids_BP: jax.Array, frozen: Any) -> tuple[jax.Array]:
      del frozen
      padding = self.size + jnp.arange(self.length, dtype=jnp.int32)
      return (jnp.where(ids_BP < 0, padding[None], ids_BP),)

    def counted(tokens_BP: jax.Array) -> jax.Array:
      ended = tokens_BP >= self.size
      return ~ended | (jnp.cumsum(ended, axis=1) == 1)

    return Lead(
      parts=(Part((self.length,), self.size + self.length, spatial=False),),
      prepare=prepare,
      tokens=tokens,
      given=_captions,
      tokenizer=vocabulary,
      pictures=vocabulary.pictures,
      captions=lambda values: [str(text) for text in values],
      predicted=self.predicted,
      counted=counted,
    )

  def parse(self, text: str, size: tuple[int, ...]) -> np.ndarray:
    del size
    return _captions(text, 1)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The encoding in a file, read when it is first needed, as a prior's frozen tokenizer."""

  text: captions.Text
  option: ClassVar[str] = f"{OPTION}.bpe"

  @functools.cached_property
  def captions(self) -> captions.Captions:
    """Captions to ids, int32 [B, length], -1 after the end. Raises UserError where there is no
    vocabulary, or one that is too large.
    """
    return captions.opened(self.text, OPTION)

  def pictures(self, ids: Any) -> np.ndarray:
    """Ids [B, length] as uint8 [B, 64, 64, 3]."""
    return np.stack([pictures.text(text, 64, 64) for text in self.captions.bpe.decode(ids)])

  def load(self) -> dict[str, Any]:
    """No weights."""
    return {}

  def shapes(self) -> dict[str, Any]:
    return {}

  def identity(self, weights: Any) -> str:
    """A hash of the encoding."""
    del weights
    return self.captions.bpe.identity


def _captions(value: Any, num: int) -> np.ndarray:
  """Captions [num], of one for all or of one for each. Raises UserError for anything else."""
  texts = [value] if isinstance(value, str) else value
  if not isinstance(texts, (list, tuple, np.ndarray)) or not all(
    isinstance(text, str) for text in texts
  ):
    raise UserError(f"text: {value!r} is no caption; give a string, one for all or for each.")
  if len(texts) not in (1, num):
    raise UserError(f"text: {len(texts)} given for {num} example(s); give one, or one for each.")
  return np.broadcast_to(np.array(texts, object), (num,))
