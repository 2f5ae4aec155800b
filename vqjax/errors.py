"""The one exception for what a user can fix: commands print it as a single line, without a
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """Bad input. The message names the field, the value and the remedy, on one line."""


def reason(error: BaseException, most: int = 200) -> str:
  """The first line of what an exception says, at most so long; its type where there is none."""
  said = f"no {error}" if isinstance(error, KeyError) else str(error)
  first = said.strip().partition("\n")[0]
  return " ".join(first.split())[:most].rstrip(".") or type(error).__name__


def guess(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean 'x'?' for the closest known name, else ''."""
  close = difflib.get_close_matches(name, sorted(known), n=1)
  return f" Did you mean {close[0]!r}?" if close else ""


def near_miss(name: str, known: Iterable[str]) -> str:
  """As `guess`, or else the list of known names."""
  known = sorted(known)
  return guess(name, known) or f" Known: {', '.join(known)}."
