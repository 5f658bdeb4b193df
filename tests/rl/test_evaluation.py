"""Evaluation scene by scene, whatever the chunks; the two controls; tables by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.rl import evaluation, judge, outcomes, tables
from ar1_jax.text import coc
from tests.rl import tiny
from tests.rl.cases import PAST, WEIGHTS, drive


def fake_judge(ids, complete, batch):
    """Reward: the first id; texts: it, spelled."""
    reward = jnp.asarray(ids[..., 0], jnp.float32)
    zero = jnp.zeros((*ids.shape[:2], 64, 3))
    row = outcomes.Outcome(
        jnp.ones(reward.shape, bool), *[jnp.zeros(reward.shape, jnp.int32)] * 3, zero, zero
    )
    return judge.Verdict(reward, {"first": reward}, row), [str(i) for i in np.asarray(ids[..., 0]).ravel()]


def encode(batch):
    """A prompt a scene; its last word depends on the scene."""
    prompt = tiny.prompt(4)
    return prompt.replace(input_ids=prompt.input_ids.at[:, 0].set(6 + batch["images"][:, 0] % 4))


def scenes(n):
    keys = np.arange(n)
    batch = {"seed": keys.astype(np.int64), "images": np.repeat(keys[:, None], 2, 1).astype(np.int32)}
    return batch | {
        "ego_history_xyz": np.zeros((n, 16, 3)),
        "ego_history_rot": np.zeros((n, 16, 3, 3)),
        "camera_ids": np.arange(4),
    }


def test_the_last_chunk_is_filled_up_and_cut_again(monkeypatch):
    """Six scenes in chunks of four; camera ids, of the same length as a chunk, stay whole."""
    monkeypatch.setattr(evaluation, "SCENES_AT_ONCE", 4)
    parts = list(evaluation.chunks(scenes(6), 4))
    assert [count for _, count in parts] == [4, 2]
    assert parts[1][0]["seed"].tolist() == [4, 5, 0, 1] and parts[1][0]["camera_ids"].tolist() == [0, 1, 2, 3]
    run = evaluation.Evaluation(
        tiny.MODEL, tiny.RULES, encode, fake_judge, scenes(6), samples=3, temperature=1.0, seed=0
    )
    found, texts = run(tiny.params())
    assert (
        len(texts) == 6 and found["greedy/reward"].shape == (6,) and found["greedy/xyz"].shape == (6, 64, 3)
    )
    np.testing.assert_array_equal(found["greedy/reward"], [float(text) for text in texts])
    assert set(found["sampled/reward"] * 3 % 1) == {0.0}
    again, _ = run(tiny.params(), sampled=False)
    assert "sampled/reward" not in again
    np.testing.assert_array_equal(again["greedy/reward"], found["greedy/reward"])


def world(n=2):
    """Straight road, constant speed; the second scene's driver stops for a light."""
    stop = drive(acceleration=-2.0)
    futures = [drive(), stop][:n]
    past = drive(times=PAST)
    return {
        "ego_history_xyz": np.stack([past[0]] * n), "ego_history_rot": np.stack([past[1]] * n),
        "ego_future_xyz": np.stack([f[0] for f in futures]), "ego_future_rot": np.stack([f[1] for f in futures]),
        "longitudinal": np.array([coc.LONGITUDINAL.index("set_speed"), coc.LONGITUDINAL.index("stop")]),
        "lateral": np.zeros(n, int),
        "causes": np.array([coc.Cause("clear").indices(), coc.Cause("red_light", None, 24).indices()]),
        "agents": np.zeros((n, 1, 64, 7), "float32"), "road": np.array([[0, -5, 5, 1e3, 0]] * n, "float32"),
    }  # fmt: skip


def test_controls_earn_what_they_deserve():
    """The driver earns everything; who always keeps lane and speed all of the first scene, little of the second."""
    verdict = judge.Judge(None, None, WEIGHTS)
    texts = ["Keep speed, keep lane: road clear.", "Stop, keep lane: red light within 24 m."]
    best = evaluation.driver(verdict, world(), texts)["greedy/reward"]
    lazy = evaluation.control(verdict, world())
    np.testing.assert_allclose(best, [2.5, 2.5], atol=0.03)  # the stop begins with a jerk
    assert lazy["greedy/reward"][0] == pytest.approx(2.5, abs=1e-3) and lazy["greedy/reward"][1] < 1.1
    assert lazy["greedy/consistency"].tolist() == [1, 1] and lazy["greedy/decision_right"].tolist() == [1, 0]


def evaluated(reward, valid=1.0):
    names = {name: np.full(4, 0.5) for name in tables.ROWS} | {
        "valid": np.full(4, valid),
        "reward": np.asarray(reward),
    }
    return {f"{kind}/{name}": value for kind in ("greedy", "sampled") for name, value in names.items()}


def test_the_change_is_paired_scene_by_scene():
    """Scenes differ a lot, each gains 0.1: the interval of the change is a point, that of the means is wide."""
    old, new = evaluated([0.0, 1.0, 2.0, 3.0]), evaluated([0.1, 1.1, 2.1, 3.1])
    columns, rows = tables.before_after(old, new, {"control": old})
    row = dict(zip(columns, rows[0]))
    assert row["change"] == "+0.100 (+0.100 to +0.100)" and row["control"] == "1.500"
    assert row["before"].startswith("1.500 (") and "1.500 to" not in row["before"]


def test_families_are_counted_apart_and_invalid_trajectories_left_out():
    old, new = evaluated([0.0, 0.0, 2.0, 2.0]), evaluated([1.0, 1.0, 2.0, 2.0])
    _, rows = tables.by_family(old, new, {}, np.array([0, 0, 2, 2]), ["a", "b", "c"])
    assert [row[:2] for row in rows] == [["a", "2"], ["c", "2"]] and rows[0][4].startswith("+1.000")
    _, rows = tables.before_after(evaluated([0.0] * 4, valid=0.0), new, {})
    ade = next(row for row in rows if row[0].startswith("ADE"))
    assert ade[1] == "" and ade[2] != ""
