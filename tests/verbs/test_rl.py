"""The rl verb: what it refuses, and that a run killed at any time ends as one that was left alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ar1_jax.checkpoints import runs
from ar1_jax.core import config as configs
from ar1_jax.core import errors
from ar1_jax.policy import loading
from ar1_jax.verbs import rl
from ar1_jax.world import api

ROOT = pathlib.Path(__file__).parents[2]


def test_what_cannot_be_run_is_refused_together():
    config = configs.load("rl", {"group": 1, "steps": 0, "rewards.reasoning": -1.0})
    with pytest.raises(errors.ConfigError) as caught:
        rl.run(config)
    text = str(caught.value)
    assert "group=1" in text and "steps=0" in text and "reasoning" in text


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(errors.ConfigError, match="kl_coef"):
        configs.load("rl", {"objective.kl_coeff": 0.1})


def test_d22_held_out_scenes_are_evaluated_by_default():
    """At least 256 scenes of another split than those trained on; validation during the run on a third."""
    config = configs.load("rl")
    trained = api.split_seeds("train", config.steps * config.scenes)
    test = api.split_seeds("test", config.evaluation.scenes)
    held = api.split_seeds("validation", config.validation.scenes)
    assert config.evaluation.scenes >= 256 and 0 < config.validate_every <= config.steps
    assert not set(trained) & set(test) and not set(trained) & set(held) and not set(test) & set(held)


def command(policy, root, name, **keys):
    words = [f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()]
    return [sys.executable, "-m", "ar1_jax.main", "--config=configs/rl.py:quick", f"--config.policy={policy}",
            f"--config.root={root}", f"--config.name={name}", *words]  # fmt: skip


def start(*words, **keys):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command(*words, **keys), cwd=ROOT, env=environment)


def wait_for_step(folder, step, process):
    """Returns once metrics.jsonl has a line of `step`."""
    for _ in range(6000):
        file = folder / "metrics.jsonl"
        if file.exists() and any(
            json.loads(line)["step"] >= step
            for line in file.read_text().splitlines(True)
            if line.endswith("\n")
        ):
            return
        assert process.poll() is None, "the run ended before its time"
        time.sleep(0.1)
    raise AssertionError("no step in ten minutes")


def metrics(folder):
    timed = ("seconds", "completions_per_second")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.slow
def test_terminated_and_killed_runs_end_like_an_undisturbed_one(tmp_path):
    policy = tmp_path / "policy"
    loading.create("nano", jax.random.key(0)).save(policy)
    assert start(policy, tmp_path, "whole").wait() == 0
    process = start(policy, tmp_path, "cut")
    wait_for_step(tmp_path / "cut", 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0 and runs.latest(tmp_path / "cut/checkpoints") in (1, 2, 3)
    done = runs.latest(tmp_path / "cut/checkpoints")
    process = start(policy, tmp_path, "cut")
    wait_for_step(tmp_path / "cut", done + 1, process)
    process.kill()
    process.wait()
    assert start(policy, tmp_path, "cut").wait() == 0
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    trees = [runs.load_params(tmp_path / name) for name in ("whole", "cut")]
    for one, other in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("whole", "cut"):
        page = (tmp_path / name / "report.html").read_text()
        assert "always keep lane and speed" in page and "before" in page
    other = loading.create("nano", jax.random.key(1))
    other.save(tmp_path / "other")
    assert start(tmp_path / "other", tmp_path, "cut").wait() == errors.BAD_INPUT
