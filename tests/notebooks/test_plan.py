"""The notebook runs from top to bottom, says what it promises, and is kept without outputs."""

import importlib.util
import pathlib
import re
import subprocess

import jax
import pytest

from ar1_jax.policy import loading

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = pathlib.Path(__file__).parents[2] / "notebooks" / "plan.ipynb"
ROOT = NOTEBOOK.parents[1]


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_kept_without_outputs():
    cells = read().cells
    assert 10 <= len(cells) <= 14
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in cells)


def test_installs_from_a_repository_or_a_wheel_only_where_the_package_is_missing(tmp_path, monkeypatch):
    """The cell itself, with pip replaced by a list of its calls."""
    cell, calls = read().cells[1].source, []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command[-1]))
    exec(cell, {})
    assert calls == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssertionError, match="set REPOSITORY"):
        exec(cell, {})
    place = "https://example.org/ar1-jax"
    exec(cell.replace('REPOSITORY = ""', f'REPOSITORY = "{place}"'), {})
    (tmp_path / "ar1_jax-0.1.0-py3-none-any.whl").touch()
    exec(cell, {})
    assert calls == [f"ar1-jax @ git+{place}", str(tmp_path / "ar1_jax-0.1.0-py3-none-any.whl")]


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With the bundled policy, or with random weights in a checkout that has none."""
    notebook = read()
    if not (loading.ASSETS / "nano").is_dir():
        loading.create("nano", jax.random.key(0)).save(tmp_path / "nano")
        for cell in notebook.cells:
            cell.source = cell.source.replace('load("nano")', f"load({str(tmp_path / 'nano')!r})")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'kernels'}")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = ["".join(o.get("text", "") for o in c.get("outputs", ())) for c in notebook.cells]
    assert "parameters on" in outputs[2] and "images (4, 1, 96, 160, 3)" in outputs[3]
    assert outputs[4].count("m ahead") == 6 and outputs[6].count("m ahead") == 2 and "of 6" in outputs[9]
    numbers = [float(n) for n in re.findall(r"influence +([\d.]+)", outputs[6] + outputs[8])]
    assert len(numbers) == 5 and max(numbers) > 0
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 5 and "note: t0 = 1.600 s" in outputs[10]
