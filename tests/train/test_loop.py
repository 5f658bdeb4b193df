"""The loop: resumed equals uninterrupted bit for bit; plans, stops and stuck runs."""

import json

import jax
import numpy as np
import pytest

from ar1_jax.core import errors
from ar1_jax.data import pipeline, reuse
from ar1_jax.train import loop, optimizer, schedule, step
from tests.train import tiny

LAYOUT = reuse.Layout(batch=2, chunk=2, block=4, reuse=2, seed=3)
PARAMS = tiny.params()
HEAD = step.init_head(jax.random.key(1), 16, tiny.CLASSES)
TX = optimizer.adamw(step.trained(PARAMS, HEAD), b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0)
STEP = step.build(tiny.MODEL, tiny.RULES, step.Recipe(draws=2), tiny.encode, TX)
KEY = jax.random.key(5)


def chunk(number):
    return tiny.batch(number) | {
        "images": np.full((2, 1, 1, 2, 2, 3), number % 256, "uint8"),
        "seed": np.arange(2),
    }


class Disk:
    """What save writes, as bytes a process could read back."""

    def __init__(self):
        self.saved, self.logged, self.best = [], [], []

    def save(self, state, progress, best):
        self.saved.append((jax.tree.map(np.array, state), json.dumps(progress.to_dict())))
        self.best.append(best)

    def log(self, at, values):
        self.logged.append((at, values))


def run(
    disk,
    settings,
    state=None,
    progress=None,
    stop=lambda: False,
    take=STEP,
    validate=lambda s, n: {"loss": 1.0 / n},
):
    progress = progress or loop.Progress(schedule.Plan(total=6, warmup=2, floor=0.05))
    batches = pipeline.training_iterator(chunk, LAYOUT, pipeline.Augment(), threads=1, ahead=2)
    parts = loop.Parts(take, validate, disk.save, disk.log, stop, batches)
    return loop.fit(state or step.init_state(PARAMS, HEAD, TX), progress, parts, settings, KEY)


SETTINGS = loop.Settings(rate=0.01, validate_every=0.5, log_every=2)


def test_three_and_three_steps_equal_six_bit_for_bit():
    whole, resumed = Disk(), Disk()
    final, _ = run(whole, SETTINGS)
    assert [json.loads(p)["step"] for _, p in whole.saved] == [3, 6]
    state, text = whole.saved[0]  # killed after its first checkpoint, then called again
    again, progress = run(
        resumed, SETTINGS, jax.tree.map(jax.numpy.array, state), loop.Progress.from_dict(json.loads(text))
    )
    assert progress.step == 6 and progress.data == {"next_index": 6}
    for (path, want), got in zip(
        jax.tree_util.tree_leaves_with_path(final), jax.tree.leaves(again), strict=True
    ):
        np.testing.assert_array_equal(got, want, err_msg=jax.tree_util.keystr(path))
    assert any(
        (np.asarray(a) != b).any()
        for a, b in zip(jax.tree.leaves(final.params), jax.tree.leaves(state.params))
    )
    assert whole.logged[-1][1] == resumed.logged[-1][1]


def test_a_stop_saves_where_it_is_and_the_best_is_remembered():
    disk, calls = Disk(), []
    _, progress = run(disk, SETTINGS, stop=lambda: len(calls) >= 4 or calls.append(0))
    assert progress.step == 4 and json.loads(disk.saved[-1][1])["step"] == 4
    assert disk.best == [True, False] and progress.best_step == 3


def fake_step(seconds, clock, stuck=0):
    def take(state, batch, knobs, key):
        clock[0] += seconds
        return state, {"loss": np.float32(1), "stuck": np.int32(stuck)}

    return take


@pytest.mark.parametrize("faster", [1.0, 2.0])
def test_a_time_budget_is_met_also_when_the_speed_changes(monkeypatch, faster):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    seconds = [1.0]

    def take(state, batch, knobs, key):
        return fake_step(seconds[0], clock)(state, batch, knobs, key)

    def validate(state, at):
        seconds[0] = 1.0 / faster
        clock[0] += 20.0
        return {"loss": 1.0}

    settings = loop.Settings(rate=0.01, minutes=10.0, validate_every=0.1, log_every=10)
    progress = loop.Progress(schedule.Plan(total=10_000, warmup=30, floor=0.05))
    disk = Disk()
    _, progress = run(
        disk, settings, step.init_state(PARAMS, HEAD, TX), progress, take=take, validate=validate
    )
    assert 570 < clock[0] < 612
    assert disk.logged[-1][0] == progress.step == progress.plan.total
    assert progress.plan.factor(progress.step - 1) == 0.05


def test_every_step_has_a_key_of_its_own():
    keys = []

    def take(state, batch, knobs, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return state, {"loss": np.float32(1), "stuck": np.int32(0)}

    run(Disk(), SETTINGS, take=take)
    assert len(set(keys)) == 6


def test_a_stuck_run_ends_with_a_message_and_without_a_bad_checkpoint():
    disk = Disk()
    with pytest.raises(errors.CheckFailed, match="5 steps in a row"):
        run(disk, SETTINGS, take=fake_step(0.0, [0.0], stuck=5))
    assert disk.saved == []
