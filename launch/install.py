"""Installs what vqjax needs and this machine lacks, for notebooks: python launch/install.py

A jax that the machine brings stays where it fits; else it comes with the plugin of the accelerator
that is there. Does not import jax: a TPU belongs to the first process that does.
"""

from __future__ import annotations

import glob
import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable

from packaging.requirements import Requirement

# The extra of jax and the package that it brings.
PLUGINS = {"tpu": "libtpu", "cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}


def installed(name: str) -> str | None:
  """The version of a package, or None where it is not installed."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def accelerator() -> str | None:
  """The extra of jax for this machine: that of an installed plugin, else by its devices."""
  for extra, plugin in PLUGINS.items():
    if installed(plugin):
      return extra
  if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
    return "tpu"
  return "cuda12" if shutil.which("nvidia-smi") else None


def wanted(
  lines: Iterable[str], extra: str | None, version: Callable[[str], str | None] = installed
) -> list[str]:
  """What pip is asked for.

  Args:
    lines: of requirements.txt.
    extra: see `accelerator`.
    version: see `installed`.
  """
  asked = []
  for requirement in map(Requirement, lines):
    name, have = requirement.name, version(requirement.name)
    if requirement.marker and not requirement.marker.evaluate():
      continue
    if name in ("tensorflow", "tensorflow-cpu") and (version("tensorflow") or have):
      continue  # both would lie in one folder; any of the last years' reads what vqjax reads
    fits = have is not None and requirement.specifier.contains(have, prereleases=True)
    # The kernel has loaded its numpy: another one in its place would need a restart.
    kept = fits and name in ("jax", "numpy")
    if name == "jax":
      requirement.extras = {extra} if extra else set()
    if kept:
      requirement.specifier = f"=={have}"
    if kept or not fits:
      requirement.marker = None
      asked.append(str(requirement))
  return asked


if __name__ == "__main__":
  file = pathlib.Path(__file__).parents[1] / "requirements.txt"
  packages = wanted(file.read_text().split("\n")[:-1], accelerator())
  print(*packages, sep="\n")
  subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *packages])
