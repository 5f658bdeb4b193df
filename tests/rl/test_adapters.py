"""RL with adapters: the base is the KL reference and is held once; the loop learns and resumes bit for bit."""

import dataclasses

import jax
import ml_collections
import numpy as np
import pytest

from ar1_jax.checkpoints import runs
from ar1_jax.core import config as configs
from ar1_jax.core import errors, signals, trees
from ar1_jax.models import lora
from ar1_jax.policy import loading
from ar1_jax.rl import loop, step
from ar1_jax.train import optimizer, tuning
from ar1_jax.verbs import rl
from tests.rl import test_loop, tiny

KEY = jax.random.key(3)
ADAPTERS = ml_collections.ConfigDict(
    {"rank": 4, "alpha": 8.0, "targets": (".*language_model/layers/.*_proj",)}
)
TUNED = tuning.begin(ADAPTERS, tiny.params(), jax.random.key(5), "nano")
TX = optimizer.adamw(TUNED.params, b1=0.9, b2=0.95, weight_decay=0.0, clip=1.0)
UPDATE = step.build(tiny.MODEL, tiny.RULES, tiny.PAPER, TX, join=TUNED.join)
_, DRAW, SCORE, _ = test_loop.machine(tiny.PAPER)


def parts(log, **changes):
    """The parts of tests/rl/test_loop.py on base and adapters, put together as the verb does."""
    return dataclasses.replace(
        test_loop.parts(tiny.PAPER, log),
        sample=lambda params, batch, keys: DRAW(TUNED.model(params), {}, keys),
        reference=lambda prompt, ids: SCORE(TUNED.base, prompt, ids),
        update=lambda *arguments: UPDATE(*arguments, TUNED.base),
        **changes,
    )


def fresh():
    return step.init_state(TUNED.params, TX)


def test_adapters_earn_more_and_the_pull_to_the_base_begins_at_zero():
    seen, before = [], jax.tree.map(np.array, TUNED.base)
    settings = loop.Settings(steps=test_loop.STEPS, scenes=8, rate=3e-2)
    loop.fit(fresh(), 0, parts(seen), settings, jax.random.key(0))
    rewards, kl = ([found[name] for _, found in seen] for name in ("reward", "kl"))
    assert rewards[0] < 0.5 and np.mean(rewards[-5:]) > 0.8, rewards
    assert abs(kl[0]) < 1e-6 and kl[-1] > 0.05, kl
    assert all(found["gap"] < 1e-4 for _, found in seen)  # sampler and learner see the same adapters
    jax.tree.map(np.testing.assert_array_equal, TUNED.base, before)


def test_a_stopped_run_continues_bit_for_bit(tmp_path):
    """Four steps at once against: two, a stop that saves adapters alone, a restore, two more."""
    settings, whole, pieces = loop.Settings(steps=4, scenes=8, rate=1e-2), [], []
    expected, _ = loop.fit(fresh(), 0, parts(whole), settings, KEY)
    items = lambda state: {"params": state.params, "optimizer": state.optimizer}
    save = lambda state, at: runs.save(tmp_path, at, items(state))
    _, done = loop.fit(fresh(), 0, parts(pieces, stop=lambda: len(pieces) == 2, save=save), settings, KEY)
    assert (
        done == 2 and trees.flatten(runs.load_params(tmp_path)).keys() == trees.flatten(TUNED.params).keys()
    )
    found = runs.restore(tmp_path, items(fresh()))
    state, _ = loop.fit(step.State(found.params, found.optimizer), 2, parts(pieces), settings, KEY)
    assert test_loop.same(state, expected) and not test_loop.same(state.params, runs.load_params(tmp_path))
    timed = ("seconds", "completions_per_second")
    plain = lambda log: [(at, {k: v for k, v in found.items() if k not in timed}) for at, found in log]
    assert plain(whole) == plain(pieces)


def settings(root, **changes):
    return configs.load("configs/rl.py:quick", {"root": str(root), "scenes": 8, "lora.rank": 8, **changes})


@pytest.fixture(scope="module")
def policy():
    return loading.load("nano", dtype="float32")


@pytest.mark.slow
def test_the_verb_holds_the_base_once_and_trains_adapters_alone(tmp_path, policy):
    trainer = rl.Trainer(settings(tmp_path), policy, tmp_path)
    state, start = trainer.start()
    assert start == 0 and trainer.tuned.base is trainer.policy.params
    trainer.score = lambda params, prompt, ids: params
    with signals.catch() as stop:
        assert trainer.parts(None, stop).reference(None, None) is trainer.tuned.base
    held, own = trees.num_bytes(state), trees.num_bytes(trainer.tuned.params)
    assert held <= 3 * own + 8 and 10 * held < trees.num_bytes(policy.params) * 3  # Adam's counter is the 8
    assert {path.rpartition("/")[2] for path in trees.flatten(state.params)} == {lora.A, lora.B}


@pytest.mark.slow
def test_the_verb_resumes_on_its_own_base_only(tmp_path, policy):
    trainer = rl.Trainer(settings(tmp_path), policy, tmp_path)
    state, _ = trainer.start()
    trainer.save(state, 2)
    assert rl.Trainer(settings(tmp_path), policy, tmp_path).start()[1] == 2
    with pytest.raises(errors.CheckpointError, match="lora.alpha was 16.0, is 8.0 now"):
        rl.Trainer(settings(tmp_path, **{"lora.alpha": 8.0}), policy, tmp_path).start()
    with pytest.raises(errors.CheckpointError, match="lora.rank was 8, is None now"):
        rl.Trainer(settings(tmp_path, **{"lora.rank": 0}), policy, tmp_path).start()
    with pytest.raises(errors.ConfigError, match="expert/layers/mlp/up_proj/lora_a: optimizer.rates is 0"):
        rl.Trainer(settings(tmp_path, **{"lora.targets": ("expert/layers/mlp/.*_proj",)}), policy, tmp_path)
