"""The loop on the tiny model: it learns, resumes bit for bit, stops when asked, and names the step of a NaN."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors
from ar1_jax.rl import judge, loop, outcomes, rollout, step
from tests.rl import tiny

WANTED = tiny.END  # what is rewarded as the first word: saying nothing
STEPS = 15
SETTINGS = loop.Settings(steps=STEPS, scenes=8, rate=1e-2, save_every=0, validate_every=0)


def scenes(at):
    return {"seed": np.arange(8, dtype=np.int64) + 8 * at, "at": np.array(at)}


def encode(batch):
    return tiny.prompt(8)


def verdict(ids, complete, batch):
    """1 where the wanted word was said first."""
    reward = jnp.asarray(ids[..., 0] == WANTED, jnp.float32)
    zero = jnp.zeros(reward.shape, jnp.int32)
    row = outcomes.Outcome(
        jnp.ones(reward.shape, bool), zero, zero, zero[..., None], zero[..., None], zero[..., None]
    )
    return judge.Verdict(reward, {"said": reward}, row), []


@functools.cache
def machine(recipe):
    draw = rollout.build(tiny.MODEL, tiny.RULES, encode, samples=4)
    score = step.build_score(tiny.MODEL, tiny.RULES, 1.0)
    run, transform = tiny.updater(recipe)
    return transform, draw, score, run


def parts(recipe, log=None, stop=lambda: False, save=lambda state, at: None, judge_=verdict):
    _, draw, score, run = machine(recipe)
    return loop.Parts(
        scenes=scenes,
        sample=lambda params, batch, keys: draw(params, {}, keys),
        judge=judge_,
        reference=lambda prompt, ids: score(tiny.params(), prompt, ids),
        update=run,
        validate=lambda params: {},
        save=save,
        log=lambda at, found: None if log is None else log.append((at, found)),
        stop=stop,
    )


def fresh(recipe=tiny.PAPER):
    return step.init_state(tiny.params(), machine(recipe)[0])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [tiny.PAPER, tiny.CLIPPED], ids=["paper", "clipped"])
def test_reward_rises_under_both_objectives(recipe):
    seen = []
    loop.fit(fresh(recipe), 0, parts(recipe, seen), SETTINGS, jax.random.key(0))
    rewards = [found["reward"] for _, found in seen]
    assert [at for at, _ in seen] == list(range(1, STEPS + 1))
    assert rewards[0] < 0.5 and np.mean(rewards[-5:]) > 0.8, rewards
    for name in (
        "kl",
        "length",
        "entropy",
        "clip_fraction",
        "gap",
        "gradient",
        "zero_variance",
        "completions_per_second",
    ):
        assert np.isfinite(seen[-1][1][name]), name


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_stopped_run_continues_bit_for_bit(tmp_path):
    """Six steps at once against: two, a stop that saves, a fresh process's restore, four more. The logs agree too."""
    settings, key = loop.Settings(steps=6, scenes=8, rate=1e-2), jax.random.key(3)
    whole, pieces = [], []
    expected, _ = loop.fit(fresh(), 0, parts(tiny.PAPER, whole), settings, key)
    save = lambda state, at: runs.save(tmp_path, at, {"params": state.params, "optimizer": state.optimizer})
    first, done = loop.fit(
        fresh(), 0, parts(tiny.PAPER, pieces, lambda: len(pieces) == 2, save), settings, key
    )
    assert done == 2 and runs.latest(tmp_path) == 2
    like = fresh()
    found = runs.restore(tmp_path, {"params": like.params, "optimizer": like.optimizer})
    state, done = loop.fit(
        step.State(found.params, found.optimizer), 2, parts(tiny.PAPER, pieces), settings, key
    )
    assert done == 6 and same(state, expected) and not same(first.params, expected.params)
    timed = ("seconds", "completions_per_second")
    plain = lambda log: [(at, {k: v for k, v in found.items() if k not in timed}) for at, found in log]
    assert plain(whole) == plain(pieces)


@pytest.mark.parametrize("what", ["reward", pytest.param("gradient", marks=pytest.mark.slow)])
def test_a_nan_stops_the_run_and_names_the_step(what):
    def spoilt(ids, complete, batch):
        found, texts = verdict(ids, complete, batch)
        bad = jnp.where(int(batch["at"]) == 2, jnp.nan, 1.0)
        return (found.replace(reward=found.reward * bad) if what == "reward" else found), texts

    seen = []
    made = parts(tiny.PAPER, seen, judge_=spoilt)
    if what == "gradient":
        broken = lambda prompt, ids: jnp.full(ids.shape, jnp.nan)
        made = loop.dataclasses.replace(made, reference=broken)
    with pytest.raises(errors.CheckFailed, match=f"step {3 if what == 'reward' else 1}: .*{what}"):
        loop.fit(fresh(), 0, made, SETTINGS, jax.random.key(0))
    assert len(seen) == (2 if what == "reward" else 0)


def test_a_scenes_draws_do_not_depend_on_its_neighbours():
    key = jax.random.key(7)
    words = lambda seeds: np.asarray(
        jax.random.key_data(rollout.scene_keys(key, np.asarray(seeds, np.uint32)))
    )
    np.testing.assert_array_equal(words([5, 9])[1], words([9, 2, 4])[0])


def test_scenes_are_made_ahead_in_order_and_errors_come_through():
    made = []

    def make(at):
        made.append(at)
        if at == 3:
            raise ValueError("scene 3")
        return at

    with loop.Ahead(make, 1, 5) as ahead:
        assert ahead(1) == 1
        deadline = time.monotonic() + 10
        while made != [1, 2] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made == [1, 2]
        assert ahead(2) == 2
        with pytest.raises(ValueError, match="scene 3"):
            ahead(3)


def test_rate_warms_up_and_falls_to_its_floor():
    settings = loop.Settings(steps=100, scenes=1, rate=1.0, warmup=10, floor=0.2)
    rates = [settings.rate_at(n) for n in range(100)]
    assert (
        rates[0] == pytest.approx(0.1)
        and max(rates) == pytest.approx(1.0)
        and rates[-1] == pytest.approx(0.2, abs=1e-3)
    )
