"""The sft verb with adapters on the bundled nano: it learns, finds again what it saved, refuses what cannot be."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ar1_jax
from ar1_jax.checkpoints import runs
from ar1_jax.core import config as configs
from ar1_jax.core import errors, trees
from ar1_jax.data import samples
from ar1_jax.models import lora
from ar1_jax.policy import loading
from ar1_jax.train import loop
from ar1_jax.verbs import sft

NANO = str(loading.ASSETS / "nano")
SCENES = 4


def settings(**changes):
    return configs.load("configs/sft.py:quick", {"model": NANO, "lora.rank": 8, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trainer on nano, scenes that the policy was not trained on, and the run's folder."""
    config, folder = settings(), tmp_path_factory.mktemp("run")
    policy = sft.initial_policy(config)
    held = samples.WorldSamples(policy, "validation", config.loss.decision_weight).take(0, SCENES)
    layout = samples.template(policy, held, samples.camera_ids())
    (folder / "config.json").write_text(config.to_json_best_effort())
    trainer = lambda: sft.Trainer(config, policy, layout, held, folder)
    batch = {name: value for name, value in held.items() if name not in loop.HOST_ONLY}
    return trainer, batch | {"seen": np.ones(SCENES, np.float32)}, folder


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_a_restart_finds_them(made):
    new, batch, folder = made
    trainer = new()
    state, progress = trainer.start()
    assert trees.count(state.params) == 90_624 and trees.count(trainer.tuned.base) == 1_494_658
    losses = []
    for number in range(8):
        knobs = {"rate": np.float32(2e-3), "cells": np.float32(0.3)}
        state, metrics = trainer.step(state, batch, knobs, jax.random.key(number))
        losses.append(float(metrics["tokens"]))
    assert losses[-1] < 0.9 * losses[0], losses
    progress = dataclasses.replace(progress, step=8, best_step=8)
    trainer.save(state, progress, best=True)
    again, found = new().start()
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert found == progress
    for name in ("checkpoints", "best"):
        saved = runs.load_params(folder / name)
        assert {path.rpartition("/")[2] for path in trees.flatten(saved)} == {lora.A, lora.B}
        about = json.loads((folder / name / "00000008/loop.json").read_text())["lora"]
        assert about["base"] == NANO and about["rank"] == 8
    merged = trainer.tuned.merged(trainer.best(progress))
    jax.tree.map(np.testing.assert_allclose, ar1_jax.load(folder, dtype="float32").params, merged)


def test_adapters_on_nothing_are_refused():
    with pytest.raises(
        errors.ConfigError, match="lora.rank=8: .* begins from nothing; name a checkpoint folder"
    ):
        sft.initial_policy(settings(model="nano"))
