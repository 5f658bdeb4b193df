"""The sft verb on nano: resumed equals uninterrupted bit for bit; the exported policy is the evaluated one."""

import json
import shutil

import jax
import numpy as np
import pytest

from ar1_jax.checkpoints import runs
from ar1_jax.core import config as configs
from ar1_jax.core import runlog, trees
from ar1_jax.policy import loading
from ar1_jax.verbs import evaluate, sft

pytestmark = pytest.mark.slow  # compiles training and evaluation of nano: two minutes on two cores


def settings(root, name, **changes):
    small = {"test.scenes": 16, "validation.scenes": 8, "log_every": 1}
    return configs.load("configs/sft.py:quick", {"root": str(root), "name": name, **small, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run of six steps, "whole", exported; and a copy as a kill at step 4 would have left it, run again."""
    root = tmp_path_factory.mktemp("runs")
    assert sft.run(settings(root, "whole", export=str(root / "policy"))) == 0
    shutil.copytree(root / "whole", root / "resumed")
    for folder in ("checkpoints", "best"):
        shutil.rmtree(root / "resumed" / folder / "00000006", ignore_errors=True)
    (root / "resumed" / "open_loop.json").unlink()
    if (
        runs.latest(root / "resumed" / "best") is None
    ):  # the best of the first half was replaced by the second's
        shutil.copytree(root / "resumed" / "checkpoints" / "00000003", root / "resumed" / "best" / "00000003")
    assert sft.run(settings(root, "resumed")) == 0
    return root


def test_a_killed_and_resumed_run_ends_bit_for_bit_where_the_whole_one_does(root):
    whole, resumed = (root / name / "checkpoints" / "00000006" for name in ("whole", "resumed"))
    for item in ("params", "optimizer"):
        want, got = (trees.flatten(runs.read_arrays(folder / item, None)) for folder in (whole, resumed))
        assert want.keys() == got.keys()
        for path in want:
            np.testing.assert_array_equal(got[path], want[path], err_msg=path)
    plans = [json.loads((folder / "loop.json").read_text()) for folder in (whole, resumed)]
    assert [p.pop("seconds") > 0 for p in plans] == [True, True]
    assert plans[0] == plans[1] and plans[0]["data"] == {"next_index": 6}
    lines = [runlog.read_metrics(root / name) for name in ("whole", "resumed")]
    strip = lambda records: [{k: v for k, v in r.items() if k != "samples_per_second"} for r in records]
    assert strip(lines[0]) == strip(lines[1])
    first = trees.flatten(runs.load_params(root / "whole" / "checkpoints" / "00000003"))
    last = trees.flatten(runs.load_params(whole))
    assert all((first[path] != last[path]).any() for path in first if path.endswith("kernel"))  # it did train


def test_the_report_of_the_resumed_run_is_that_of_the_whole_one(root):
    reports = [json.loads((root / name / "open_loop.json").read_text()) for name in ("whole", "resumed")]
    assert reports[0]["tables"] == reports[1]["tables"] and set(reports[0]["tables"]) > {"all"}


def test_the_exported_policy_is_the_best_one_and_evaluates_to_the_same_table(root):
    progress = json.loads((root / "whole" / "checkpoints" / "00000006" / "loop.json").read_text())
    policy = loading.load(root / "policy")
    best = trees.flatten(runs.load_params(root / "whole" / "best" / f"{progress['best_step']:08d}"))
    for path, leaf in trees.flatten(jax.device_get(policy.params)).items():
        np.testing.assert_allclose(leaf, best[path], atol=1e-7, err_msg=path)
    metrics = json.loads((root / "policy" / "metrics.json").read_text())
    assert metrics["about"]["steps"] == 6 and "ar1_jax.main" in metrics["about"]["command"]
    changes = {"root": str(root), "policy": str(root / "policy"), "scenes": 16, "seed": 3, "check": True}
    assert evaluate.run(configs.load("configs/evaluate.py:quick", changes)) == 1  # six steps reach no target
    again = json.loads((root / "evaluate_quick" / "open_loop.json").read_text())
    for row, cells in metrics["tables"]["all"].items():
        for column, cell in cells.items():
            assert again["tables"]["all"][row][column]["value"] == pytest.approx(cell["value"], abs=1e-3), (
                row,
                column,
            )
