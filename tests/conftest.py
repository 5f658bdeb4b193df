"""Test session: eight CPU devices, highest matmul precision, few hypothesis examples, compiled programs kept.

Set here once and before any JAX call; no test file changes them for itself."""

import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's pool has as many threads as devices, and one device may hold several in collectives that wait for the others:
# with eight threads for eight devices on two cores a partitioned backward program deadlocks. Enough threads cannot.
os.environ.setdefault("PJRT_NPROC", "64")
os.environ["XLA_FLAGS"] = " ".join([
    # A collective that waits 40 s on a busy machine is no failure, one that waits 5 minutes is: XLA then aborts.
    "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    "--xla_cpu_collective_timeout_seconds=300",
    # Most of a test's time is LLVM optimising a program that runs a few times: a third of the whole goes without.
    "--xla_backend_optimization_level=0",
    os.environ.get("XLA_FLAGS", ""),
])  # fmt: skip

import absl.flags
import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
if not jax.config.jax_compilation_cache_dir:
    CACHE = pathlib.Path(tempfile.gettempdir()) / f"ar1-jax-tests-{os.getuid()}"
    CACHE.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

hypothesis.settings.register_profile(
    "house",
    deadline=None,  # each new shape compiles
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("house")
absl.flags.FLAGS.mark_as_parsed()  # grain's workers look at flags


@pytest.fixture(autouse=True, scope="module")
def release_compiled_programs():
    """Every compiled program holds memory maps, and a session's worth exceeds the kernel's 65,530: a file's are let go
    after it, or a later compilation aborts the process."""
    yield
    jax.clear_caches()
    gc.collect()


# What .ci/run repeats on a second interpreter with another jax: every operation and codec, no training.
FAST = (
    "core",
    "geometry",
    "text",
    "images",
    "actions",
    "metrics",
    "kernels",
    "models",
    "checkpoints/test_runs.py",
)


def pytest_collection_modifyitems(items):
    """Marks the tests of the FAST folders; single tests elsewhere carry the mark themselves."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / name) for name in FAST):
            item.add_marker("fast")
