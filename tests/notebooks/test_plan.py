"""The notebook runs from top to bottom, says what it promises, and is kept without outputs."""

import pathlib

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


def test_ten_cells_without_outputs():
    cells = read().cells
    assert len(cells) == 10
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in cells)


def test_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With the bundled policy, or with random weights in a checkout that has none."""
    notebook = read()
    if not (loading.ASSETS / "nano").is_dir():
        loading.create("nano", jax.random.key(0)).save(tmp_path / "nano")
        for cell in notebook.cells:
            cell.source = cell.source.replace('load("nano")', f"load({str(tmp_path / 'nano')!r})")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'kernels'}")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = ["".join(o.get("text", "") for o in c.get("outputs", ())) for c in notebook.cells]
    assert "parameters on" in outputs[2] and "images (4, 1, 96, 160, 3)" in outputs[3]
    assert outputs[4].count("m ahead") == 6 and outputs[6].count("m ahead") == 2 and "of 6" in outputs[7]
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2 and "note: t0 = 1.600 s" in outputs[8]
