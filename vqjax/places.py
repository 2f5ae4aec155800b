"""Where a run's config points, other runs and data: kept so that it works from any folder, and
after the run and what it names were moved together.

Which fields name a place is said by their marks, see vqjax.fields. A path in a bucket stays as it
is.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vqjax import build, files
from vqjax.errors import UserError

EXPORT = "."  # the workdir in an exported run's config


class Place(NamedTuple):
  """A field of a config that names a place: its dotted path, its value, whether the run is never
  opened without it, and whether predictions may ask for it.
  """

  field: str
  value: str
  needed: bool
  part: bool


def listed(cls: Any, config: Mapping[str, Any], prefix: str = "") -> Iterator[Place]:
  """The places in a config, which has the fields of the dataclass `cls`; those not set are left
  out.
  """
  for field in dataclasses.fields(cls):
    value, path = config.get(field.name), f"{prefix}{field.name}"
    if isinstance(value, str) and value and "place" in field.metadata:
      kind = field.metadata["place"]
      yield Place(path, value, kind == "needed", kind in ("needed", "part"))
    elif hasattr(value, "items"):
      for inner, values, name in _described(field.metadata, value):
        yield from listed(inner, values, f"{path}.{name}")


def _described(metadata: Mapping[str, str], config: Mapping) -> Iterator[tuple[Any, Any, str]]:
  """(dataclass, values, name and dot where it is one of several) of what a sub-dict describes."""
  if "family" in metadata and "name" in config:
    yield build.member(metadata["family"], config["name"]), config, ""
  if "record" in metadata:
    yield build.record(metadata), config, ""
  if "members" in metadata:
    for name in build.names(metadata["members"]):
      if hasattr(config.get(name), "items"):
        yield build.member(metadata["members"], name), config[name], f"{name}."


def absolute(place: str) -> str:
  """The place as it is spelled from every folder."""
  if files.is_remote(place):
    return place
  return os.path.abspath(pathlib.Path(place).expanduser())


def candidates(place: str, begun_in: str | None, workdir: files.Path) -> tuple[str, ...]:
  """Where `place` may lie for a run that named it when its workdir was `begun_in`: as far from
  `workdir` as it was from there, then as it was named. An exported run, which began in `EXPORT`,
  tells it from itself where it is in the same file.
  """
  if begun_in == EXPORT:
    return (os.path.normpath(os.path.join(workdir, place)) if place.startswith(".") else place,)
  if begun_in is None or any(map(files.is_remote, (place, begun_in, workdir))):
    return (place,)
  beside = os.path.relpath(place, begun_in)
  return tuple(dict.fromkeys((absolute(os.path.join(workdir, beside)), place)))


def exists(place: str, run: bool = False) -> bool:
  """Whether something lies there, with `run` a run; what is in a bucket is believed."""
  file = files.path(os.path.expanduser(place))
  return files.is_remote(place) or (file / ("config.json" if run else "")).exists()


def found(place: str, begun_in: str | None, workdir: files.Path) -> str:
  """The first candidate where something lies; `place` itself where nothing does."""
  return next((c for c in candidates(place, begun_in, workdir) if exists(c)), place)


def same_spelling(typed: str, known: str) -> bool:
  """Whether a relative path, seen from some folder, is the absolute path `known`."""
  parts = [p for p in pathlib.Path(typed).parts if p not in (".", "..")]
  relative = not (files.is_remote(typed) or typed.startswith(("/", "~")))
  return relative and bool(parts) and list(pathlib.Path(known).parts[-len(parts) :]) == parts


def missing(place: Place, tried: tuple[str, ...], workdir: files.Path) -> UserError:
  """What is said of a place where nothing lies."""
  what = "no run" if place.needed else "nothing"
  if files.is_packed(workdir):
    return UserError(
      f"config.{place.field}: {what} lies at {' or at '.join(tried)}; an exported run comes "
      "without its data: give others (--data=PATH), or an example to start from."
    )
  return UserError(
    f"config.{place.field}: {what} lies at {' or at '.join(tried)}; say where it is now: python -m "
    f"vqjax.main --workdir={workdir} --config.{place.field}=PATH."
  )
