"""Test session: four faked CPU devices, cheap keys, strict promotion, and a compilation cache
shared by all runs.
"""

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA's threads for CPUs. Devices that wait for each other hold one each, and several where sums do
# not depend on one another: with as many threads as devices a program stops for ever.
os.environ.setdefault("NPROC", "16")
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
  # Tests compile far more than they compute: optimised code would double the suite.
  flags += " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
  # XLA stops at a flag that a version does not know.
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    flags += " --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
  os.environ["XLA_FLAGS"] = flags.strip()

import jax  # noqa: E402
import pytest  # noqa: E402

# Traces are millions of objects with hardly a cycle; looking for cycles took a seventh of the time
# of files that trace much.
gc.set_threshold(100_000, 20, 50)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_prng_impl", "rbg")
jax.config.update(
  "jax_compilation_cache_dir",
  os.environ.get("VQJAX_TEST_CACHE", os.path.join(tempfile.gettempdir(), "vqjax-test-cache")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

_SHARED = pathlib.Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module():
  """Drops what a module compiled: kept until the end, a worker would hold several gigabytes."""
  yield
  jax.clear_caches()
  gc.collect()
  # glibc keeps what was freed for itself, here more than half of what a worker holds.
  if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
    trim(0)


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
  """The folder of values from independent implementations; tests that need it skip where it is
  absent.
  """
  path = _SHARED / "golden"
  if not path.is_dir():
    pytest.skip(f"{path} is absent: no values of other implementations to compare with")
  return path


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
  """The folder of real data sets; tests that need it skip where it is absent."""
  path = _SHARED / "data"
  if not path.is_dir():
    pytest.skip(f"{path} is absent: no real data to read")
  return path


@pytest.fixture(scope="session")
def tfds_pictures(tmp_path_factory):
  """The config of 50 + 13 pictures in TFDS, in several files, whose labels and captions say which
  they are.
  """
  tfds = pytest.importorskip("tensorflow_datasets")
  import numpy as np

  class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      text = tfds.features.Text()
      features = dict(
        image=tfds.features.Image(shape=(None, None, 3)),
        label=tfds.features.ClassLabel(num_classes=50),
        text=text,
        captions=tfds.features.Sequence(dict(id=np.int64, text=text)),
      )
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(50), "test": self._generate_examples(13)}

    def _generate_examples(self, num):
      for i in range(num):
        image = np.random.default_rng(i).integers(0, 256, (9, 10 + i % 3, 3), np.uint8)
        several = [f"{word} {i}" for word in ("picture", "number", "the")]
        captions = dict(id=np.arange(3), text=several)
        yield i, dict(image=image, label=i, text=f"picture {i}", captions=captions)

  directory = str(tmp_path_factory.mktemp("tfds"))
  builder = Tiny(data_dir=directory)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=5))
  return dict(name="tfds", dataset="tiny", data_dir=directory, shuffle_buffer=16)


@pytest.fixture
def gs(tmp_path, monkeypatch):
  """A workdir under gs://, whose bucket is a folder in tmp_path: see bucket.py."""
  import bucket

  return bucket.stand_in(monkeypatch, tmp_path)


class Disk:
  """A folder that holds one megabyte."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def leave(self, free: int) -> None:
    """Fills it up to about `free` bytes."""
    ballast = self.path / "ballast"
    ballast.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
      ballast.write_bytes(bytes(max(0, shutil.disk_usage(self.path).free - free)))


@pytest.fixture
def disk(tmp_path):
  """A disk that can be filled: skips where none may be mounted."""
  path = tmp_path / "disk"
  path.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
  if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("no small file system can be mounted here: needs root")
  yield Disk(path)
  subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="session")
def chi2():
  """chi2(counts, probabilities): fails where counts could hardly (1 in 10,000) come from these;
  pools cells with few expected counts.
  """
  import numpy as np
  from scipy import stats

  def check(counts, probabilities):
    counts = np.asarray(counts, float)
    expected = np.asarray(probabilities, float) * counts.sum()
    assert not counts[expected < 1e-9 * counts.sum()].any(), "drew what has no probability"
    rare = expected < 5
    if expected[rare].sum() > 0:
      counts = np.append(counts[~rare], counts[rare].sum())
      expected = np.append(expected[~rare], expected[rare].sum())
    else:
      counts, expected = counts[~rare], expected[~rare]
    if len(counts) > 1:
      assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4

  return check


@pytest.fixture(scope="session")
def printed():
  """printed(text) -> {first column: [other columns]} of a table that a command printed."""

  def table(text):
    lines = (line for line in text.splitlines() if line.startswith("| "))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}

  return table


class Crash(Exception):
  """What `crash` ends a run with."""


@pytest.fixture
def crash(monkeypatch):
  """crash(step): a context in which a run ends while it writes its first log line from that step
  on, without any goodbye.
  """
  from vqjax import writers

  write = writers.Writer.scalars

  @contextlib.contextmanager
  def crashing(step):
    def scalars(self, at, values, **also):
      if at >= step:
        raise Crash
      write(self, at, values, **also)

    with monkeypatch.context() as patch, pytest.raises(Crash):
      patch.setattr(writers.Writer, "scalars", scalars)
      yield

  return crashing


@pytest.fixture
def terminate(monkeypatch):
  """terminate(step): a context in which a run gets SIGTERM in that step."""
  from vqjax import journal

  add = journal.Journal.add

  @contextlib.contextmanager
  def terminating(at):
    def asked(self, step, metrics):
      if step == at:
        os.kill(os.getpid(), signal.SIGTERM)
      add(self, step, metrics)

    with monkeypatch.context() as patch:
      patch.setattr(journal.Journal, "add", asked)
      yield

  return terminating


@pytest.fixture(scope="session")
def final_state():
  """final_state(workdir) -> the newest State saved there."""
  from vqjax import checkpoint, config as configuration, train

  def read(workdir):
    run = train.Run(configuration.of_run(workdir), configuration.read_spec(workdir))
    with checkpoint.Checkpoints(workdir, keep=9) as checkpoints:
      return checkpoints._read(checkpoints.steps()[-1], run.abstract)[0]

  return read


@pytest.fixture(scope="session")
def same_run(final_state):
  """same_run(a, b): asserts that the runs in two workdirs ended with the same bits and wrote the
  same log; returns their State.
  """
  import numpy as np

  def compare(a, b):
    left, right = final_state(a), final_state(b)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right)):
      np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
    # Timings go to TensorBoard alone, so the whole file must agree.
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    return left

  return compare


@pytest.fixture(scope="session")
def random_run():
  """random_run(workdir, config, std, seed) -> workdir: a run with random weights, see
  weights.drawn, as if it had been trained, for what does not depend on learning: nothing is
  compiled. Without a seed, runs at places whose paths differ in length have different weights.
  """
  import weights

  from vqjax import checkpoint, config as configuration, train
  from vqjax.compile import batch_of

  def make(workdir, config, std=0.3, seed=None):
    config = configuration.complete(config)
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    run = train.Run(config, batch_of(config))
    configuration.save(config, workdir)
    configuration.save_spec(run.spec, workdir)
    state = weights.drawn(run.abstract, seed=len(str(workdir)) if seed is None else seed, std=std)
    with checkpoint.Checkpoints(workdir) as checkpoints:
      checkpoints.save(1, state, checkpoint.NoStream())
    return workdir

  return make


@pytest.fixture
def untrained(tmp_path):
  """untrained(tokenizer, prior) -> Loaded: a prior over the codes of a tokenizer, configs of both
  without their data, on images of 16 x 16 with the labels and maps of shapes. Its weights are
  random and nothing is compiled: for what does not depend on learning.
  """
  import weights

  from vqjax import api, config as configuration, train
  from vqjax.tasks import Weights

  data = dict(data=dict(name="shapes", size=16, num_train=32, num_eval=10), ops=dict(size=16))
  arrays = {"image": ((16, 16, 3), "uint8"), "layout": ((16, 16), "uint8"), "label": ((), "int32")}
  spec = {k: jax.ShapeDtypeStruct((8, *shape), dtype) for k, (shape, dtype) in arrays.items()}

  def make(tokenizer, prior):
    workdir = tmp_path / "tokenizer"
    workdir.mkdir(exist_ok=True)
    configuration.save(configuration.complete(data | tokenizer), workdir)
    configuration.save_spec(spec, workdir)
    config = configuration.complete(data | prior | dict(task="prior", tokenizer=str(workdir)))
    run = train.Run(config, spec)
    abstract = Weights(run.abstract.params, run.abstract.stats, run.task.frozen.shapes())
    return api.Loaded(tmp_path / "prior", config, run, weights.drawn(abstract, std=0.3))

  return make


@pytest.fixture(scope="module")
def opened_once():
  """api.load gives the tests of a module, and the commands that they run, one object for each run,
  and with it what was compiled.
  """
  from vqjax import api

  load = functools.cache(api.load)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(api, "load", lambda workdir: load(str(workdir)))
    yield


@pytest.fixture
def compiled_once(monkeypatch):
  """The runs of a test, which have one config, share their compiled functions: those take far
  longer than the steps.
  """
  from vqjax import train

  made = []

  def run(*args):
    made.append(made[0] if made else Run(*args))
    return made[-1]

  Run = train.Run
  monkeypatch.setattr(train, "Run", run)
