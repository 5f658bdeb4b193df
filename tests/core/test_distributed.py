"""Several processes through launch/local.sh, which runs a real verb. The reference: sums by hand."""

import os
import pathlib
import subprocess
import sys

import pytest

from ar1_jax.core import distributed, errors

ROOT = pathlib.Path(__file__).parents[2]
VERB = '''"""Adds up what every process holds."""
import jax, numpy as np, time
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from ar1_jax.checkpoints import runs
from ar1_jax.core import runlog, sharding, signals

def run(config):
    folder = runlog.open_run(config.root, "run", config)
    multihost_utils.sync_global_devices("made")
    mesh = sharding.make_mesh(fsdp=2)
    part = np.arange(4.0) + 10 * jax.process_index()
    cut = NamedSharding(mesh, P(("data", "fsdp")))
    x = jax.make_array_from_process_local_data(cut, part, (4 * jax.process_count(),))
    runs.save(folder / "checkpoints", 1, {"params": {"x": x}, "loop": {"step": 1}})
    found = runs.restore(folder / "checkpoints", {"params": {"x": x}}).params["x"]
    total = jax.jit(lambda a: a.sum(), out_shardings=NamedSharding(mesh, P()))(found)
    with runlog.RunLog(folder, 1) as log:
        log.log(1, {"sum": float(total), "devices": jax.device_count()})
    if config.fail and jax.process_index() == 1:
        return 3
    if config.wait:
        with signals.catch() as stop:
            print("waiting", flush=True)
            while not stop.anywhere():
                time.sleep(0.05)
        return stop.exit_code(saved=False)
'''
CONFIG = """
import ml_collections
def get_config(argument=None):
    return ml_collections.ConfigDict({"root": "", "fail": False, "wait": False})
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Starts two processes that run the verb above, put beside the real ones by a sitecustomize of its own."""
    (tmp_path / "job.py").write_text(CONFIG)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "job.py").write_text(VERB)
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        f"import ar1_jax.verbs\nar1_jax.verbs.__path__.append({str(tmp_path / 'hook')!r})\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AR1_JAX", "JAX", "XLA"))}
    environment |= {
        "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}",
        "PYTHON": sys.executable,
        "AR1_JAX_LOGS": str(tmp_path / "logs"),
        "AR1_JAX_CACHE": "off",
        "DEVICES": "2",
        "GRACE": "1",
    }

    def start(*arguments):
        words = [
            ROOT / "launch" / "local.sh",
            "2",
            f"--config={tmp_path / 'job.py'}",
            f"--config.root={tmp_path}",
        ]
        return subprocess.Popen(
            [*words, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def test_two_processes_share_a_mesh_a_log_and_a_checkpoint(launch, tmp_path):
    process = launch()
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    assert "sum 52  devices 4" in out, err  # 0+1+2+3 of process 0, 10+11+12+13 of process 1
    assert out.count("step 1/1") == 1
    assert (tmp_path / "run" / "checkpoints" / "00000001" / "manifest.json").exists()


def test_the_code_of_a_process_that_fails_is_returned_and_the_others_end(launch, tmp_path):
    process = launch("--config.fail=true", "--config.wait=true")
    _, err = process.communicate(timeout=50)
    assert process.returncode == 3
    assert "a process ended with 3" in err


def test_a_stop_reaches_every_process(launch, tmp_path):
    process = launch("--config.wait=true")
    for line in process.stdout:
        if line.startswith("waiting"):
            break
    process.terminate()
    process.communicate(timeout=50)
    assert process.returncode == 143


def test_usage_is_shown_without_arguments():
    found = subprocess.run([ROOT / "launch" / "local.sh", "2"], capture_output=True, text=True)
    assert found.returncode == 2 and "launch/local.sh N --config=rl" in found.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "AR1_JAX_PROCESSES is None"),
        ({"AR1_JAX_PROCESSES": "2"}, "AR1_JAX_PROCESS is None"),
        ({"AR1_JAX_PROCESSES": "two", "AR1_JAX_PROCESS": "0"}, "AR1_JAX_PROCESSES is 'two'"),
        ({"AR1_JAX_PROCESSES": "2", "AR1_JAX_PROCESS": "2"}, "must lie in 0..1"),
    ],
)
def test_an_incomplete_environment_is_refused(monkeypatch, variables, message):
    monkeypatch.setenv("AR1_JAX_COORDINATOR", "127.0.0.1:1")
    for name in ("AR1_JAX_PROCESSES", "AR1_JAX_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigError, match=message):
        distributed.initialize()


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv("AR1_JAX_COORDINATOR", raising=False)
    assert distributed.initialize() is False
