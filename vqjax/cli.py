"""What every command shares: flags, devices, the compilation cache, and errors as one line instead
of a traceback.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vqjax import files, preemption
from vqjax.errors import UserError, near_miss

# For NPROC, how many threads XLA has, where one CPU pretends to be several devices: those that wait
# for each other hold a thread each, or several where sums do not depend on one another. With no
# more threads than devices a program may stop for ever.
PRETENDED_THREADS = "64"


class _Parser(argparse.ArgumentParser):
  """Raises UserError where argparse would print the usage and leave."""

  def error(self, message: str) -> NoReturn:
    if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
      known = (flag for flag in self._option_string_actions if flag.startswith("--"))
      raise UserError(f"{unknown[1]}: is no flag of this command.{near_miss(unknown[1], known)}")
    raise UserError(f"{message.removeprefix('argument ')}; see --help.")


def parser(doc: str, **options: Any) -> argparse.ArgumentParser:
  """For a command or suite; what is wrong with its flags is a UserError."""
  return _Parser(
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    **options,
  )


def at_least(least: int) -> Callable[[str], int]:
  """The type of flags that are whole numbers from `least` up."""

  def number(text: str) -> int:
    if not text.isdecimal() or int(text) < least:
      raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} up")
    return int(text)

  return number


count = at_least(1)


def _given(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError("is empty; give a path")
  return text


def path(text: str) -> files.Path:
  """The type of flags that name a run, which may lie in a bucket."""
  return files.path(_given(text))


def local(text: str) -> pathlib.Path:
  """The type of flags that name a file or folder of this machine."""
  return pathlib.Path(_given(text)).expanduser()


def output(place: pathlib.Path, folder: bool = False) -> None:
  """Makes the folder that `place` is, or lies in. Raises UserError where nothing can be written
  there, before any work is done.
  """
  parent = place if folder else place.parent
  if wrong := files.make_folder(parent):
    raise UserError(f"--output={place}: {parent} {wrong}; choose another place.")
  if not folder and place.is_dir():
    raise UserError(f"--output={place}: is a folder; choose another place.")


def setup() -> None:
  """Logging, the persistent compilation cache, and the distributed runtime where the launcher asks
  for it.

  VQJAX_DISTRIBUTED=1 starts jax.distributed: on TPU pods, Slurm and GKE it finds the other
  processes by itself; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
  VQJAX_CACHE moves the compilation cache ("" turns it off).
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    os.environ.setdefault("NPROC", PRETENDED_THREADS)
  import jax
  from absl import flags, logging as absl_logging

  absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax and TensorFlow talk there
  flags.FLAGS.mark_as_parsed()  # Orbax reads its own flags and raises where nobody has parsed any
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  log = logging.getLogger("vqjax")
  log.handlers, log.propagate = [handler], False
  log.setLevel(logging.INFO)
  _warn_of_slow_scatter(log)
  if cache := files.cache():
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if os.environ.get("VQJAX_DISTRIBUTED") == "1":
    jax.distributed.initialize(**_other_processes())
    start_up = preemption.start_up()
    if start_up and jax.process_count() == 1:
      start_up.claim()  # jax.distributed has taken SIGTERM, which on several processes is its own


def _other_processes() -> dict[str, str | int]:
  """What the environment says of them; {} where jax.distributed finds them by itself. Raises
  UserError where a part is missing.
  """
  address, *numbers = names = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
  if not any(name in os.environ for name in numbers):
    return {}
  found = [os.environ.get(name, "") for name in names]
  for name, value in zip(names, found):
    if not value or (name in numbers and not value.isdecimal()):
      wanted = "HOST:PORT" if name == address else "a number"
      raise UserError(f"{name}={value}: set it to {wanted}; {', '.join(names)} go together.")
  return dict(coordinator_address=found[0], num_processes=int(found[1]), process_id=int(found[2]))


def _warn_of_slow_scatter(log: logging.Logger) -> None:
  """Names the jaxlib versions whose float32 scatter-add on GPUs is a compare-and-swap loop."""
  import jaxlib.version

  on_gpu = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
  if on_gpu and (0, 10, 2) <= jaxlib.version.__version_info__ < (0, 11, 1):
    log.warning(
      "jaxlib %s adds slowly on GPUs (jax issue 38806); use another version",
      jaxlib.version.__version__,
    )


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs a command's main on the arguments; a UserError, what the system has against a path, or the
  end of another process of the run is one line on stderr and status 1.
  """
  try:
    setup()
    main(sys.argv[1:])
  except KeyboardInterrupt:
    print("interrupted; the same command continues", file=sys.stderr, flush=True)
    _leave(130)
  except (UserError, OSError) as e:
    if isinstance(e, OSError) and e.errno is None:
      raise  # not the system's, but some library's word: no mistake of the user's
    print(f"error: {e}", file=sys.stderr, flush=True)
    _leave(1)
  except RuntimeError as e:
    if not _several() or type(e).__name__ != "JaxRuntimeError":
      raise
    reason = str(e).splitlines()[0]
    print(
      f"error: another process of this run is gone ({reason}); start all of them again, and the "
      "run continues from its newest checkpoint.",
      file=sys.stderr,
      flush=True,
    )
    _leave(1)


def _several() -> bool:
  """Whether this process is one of several that compute together."""
  return "jax" in sys.modules and sys.modules["jax"].process_count() > 1


def _leave(status: int) -> None:
  """Ends the process: one of several at once, for its last barrier would wait for those that are
  gone or that wait for it, and they would not learn of its end.
  """
  if _several():
    sys.stdout.flush()
    os._exit(status)
  sys.exit(status)
