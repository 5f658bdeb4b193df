"""Conversions by two processes through launch/local.sh. The reference: the folder itself, byte for byte."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ar1_jax.checkpoints import huggingface
from tests.policy import folders

ROOT = pathlib.Path(__file__).parents[2]
# Each process writes down which rows of which tensors it asks for; process 1 opens its files late and is waited for.
HOOK = """
import atexit, json, os, time
from ar1_jax.checkpoints import tensor_files
asked, rows = [], tensor_files.Reader.rows
def counting(self, name, first=0, last=None):
    out = rows(self, name, first, last)
    asked.append([name, first, first + len(out)] if out.ndim else [name, 0, 0])
    return out
tensor_files.Reader.rows = counting
open_files = tensor_files.Writer.__init__
def slow(self, files):
    time.sleep(3 * int(os.environ.get("AR1_JAX_PROCESS", 0)))
    open_files(self, files)
tensor_files.Writer.__init__ = slow
path = os.path.join(os.path.dirname(__file__), "asked-" + os.environ.get("AR1_JAX_PROCESS", "none"))
atexit.register(lambda: open(path, "w").write(json.dumps(asked)))
"""


@pytest.fixture
def both(tmp_path):
    """Runs `convert` in two processes; (exit code, what they said)."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AR1_JAX", "JAX", "XLA"))}
    environment |= {
        "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}", "PYTHON": sys.executable, "AR1_JAX_CACHE": "off", "GRACE": "1",
        "AR1_JAX_LOGS": str(tmp_path / "logs"),
    }  # fmt: skip

    def start(source, target, form, *words):
        command = [ROOT / "launch/local.sh", "2", f"--config=convert:{form}", f"--config.source={source}"]
        done = subprocess.run([*command, f"--config.target={target}", *words], env=environment, text=True,
                              capture_output=True, timeout=100, cwd=ROOT)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return start


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_two_processes_convert_both_ways_byte_for_byte(both, tmp_path):
    source = folders.folder("v15_small")
    code, said = both(source, tmp_path / "ours", "orbax", "--config.mesh.tensor=2", "--config.mesh.data=1")
    assert code == 0, said
    asked = [json.loads((tmp_path / f"hook/asked-{i}").read_text()) for i in (0, 1)]
    name = "vlm.model.language_model.layers.2.mlp.up_proj.weight"
    half = huggingface.weights(source).entries[name].shape[0] // 2
    rows = [[(first, last) for n, first, last in each if n == name] for each in asked]
    assert rows == [[(0, half)], [(half, 2 * half)]], "each reads the rows of its own shard"
    code, said = both(tmp_path / "ours", tmp_path / "again", "huggingface")
    assert code == 0, said
    assert contents(tmp_path / "again") == contents(source)
    assert not list(tmp_path.glob(".*")), "nothing half-written remains"


@pytest.mark.slow
def test_a_mesh_that_leaves_a_process_out_is_refused(both, tmp_path):
    code, said = both(folders.folder("v15_small"), tmp_path / "ours", "orbax")
    assert code == 2 and "does not fit 2 devices" in said and not (tmp_path / "ours").exists()
