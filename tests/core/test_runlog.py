"""Run log. The reference is the file of a run that was never stopped."""

import io
import json
import os

import jax.numpy as jnp
import ml_collections
import pytest

from ar1_jax.core import errors, runlog


def write(folder, first, last, start=0):
    with runlog.RunLog(folder, 10, start, stream=io.StringIO()) as log:
        for step in range(first, last + 1):
            log.log(step, {"loss": 1.0 / step, "reward": jnp.float32(step)})


def test_a_resumed_log_equals_one_that_was_never_stopped(tmp_path):
    write(tmp_path / "whole", 1, 10)
    write(tmp_path / "parts", 1, 7)  # killed after step 7; the last checkpoint is of step 5
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    write(tmp_path / "parts", 6, 10, start=5)
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()
    records = runlog.read_metrics(tmp_path / "parts")
    assert [r["step"] for r in records] == list(range(1, 11)) and records[3] == {
        "step": 4,
        "loss": 0.25,
        "reward": 4.0,
    }


def test_a_fresh_start_keeps_nothing(tmp_path):
    write(tmp_path, 1, 3)
    write(tmp_path, 1, 2)
    assert [r["step"] for r in runlog.read_metrics(tmp_path)] == [1, 2]


def test_lines_are_aligned_and_say_what_is_left(tmp_path, monkeypatch):
    now = iter((100.0, 104.0, 140.0))
    monkeypatch.setattr(runlog.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    with runlog.RunLog(tmp_path, 2000, 20, stream=out) as log:
        log.log(22, {"loss": 12.34567, "reward": 0.5})
        log.log(120, {"loss": 1.5, "reward": -0.25})
    lines = out.getvalue().splitlines()
    assert lines[0] == "step   22/2000   1%  loss 12.35  reward 0.5  left 1:05:56"  # 1978 steps, 2 s each
    assert lines[1] == "step  120/2000   6%  loss   1.5  reward -0.25  left 12:32"  # 1880 steps, 0.4 s each
    assert (tmp_path / "log.txt").read_text().splitlines() == lines


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    with runlog.RunLog(tmp_path, 1, stream=io.StringIO()) as log:
        log.log(1, {"loss": float("nan"), "ratio": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "ratio": None}


def test_run_folder_holds_its_configuration(tmp_path):
    folder = runlog.open_run(tmp_path, "first", ml_collections.ConfigDict({"steps": 3, "a": {"b": (1, 2)}}))
    assert json.loads((folder / "config.json").read_text()) == {"steps": 3, "a": {"b": [1, 2]}}
    assert (folder / "figures").is_dir() and (folder / "checkpoints").is_dir()
    runlog.open_run(tmp_path, "first")  # opens again


def test_an_unwritable_target_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConfigError, match="file/run.*cannot be written"):
        runlog.open_run(tmp_path / "file", "run")
    with pytest.raises(errors.ConfigError, match="cannot be written"):
        runlog.RunLog(tmp_path / "file", 3)
    if os.getuid() != 0:  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(errors.ConfigError, match="cannot be written"):
            runlog.open_run(tmp_path / "closed", "run")
