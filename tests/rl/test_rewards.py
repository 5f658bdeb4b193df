"""Rewards against statements by hand: what is right is paid, more error never pays more, nothing leaves its
bounds."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.rl import outcomes, rewards
from ar1_jax.rl.rewards import consistency, reasoning, trajectory
from ar1_jax.text import coc
from tests.rl.cases import WEIGHTS, combine, drive, outcome, truth

RED = ("red_light", None, 24)
STOP_TEXT = "Stop, keep lane: red light within 24 m."
STOP = drive(acceleration=-2.0)
KEEP = drive()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STOP_TEXT, 1.0),
        ("Stop, keep lane: red light within 36 m.", 0.9),  # one bucket off: half of the attributes' 0.2
        ("Stop, keep lane: red light within 48 m.", 0.8),
        (
            "Stop, keep lane: green light within 24 m.",
            0.6,
        ),  # the right distance of the wrong thing earns nothing
        ("Yield, keep lane: red light within 24 m.", 0.5),  # half of the decisions, half of the cause
        ("Yield, nudge left: red light within 24 m.", 0.0),
        ("Keep speed, keep lane: road clear.", 0.3),
        ("Stop, keep lane: red", 0.6),
        ("stop stop stop", 0.0),
        ("", 0.0),
    ],
)
def test_reasoning_counts_what_is_right(text, expected):
    scene = truth("stop", "lane_keeping", RED, acceleration=-2.0)
    np.testing.assert_allclose(reasoning.reward(outcome((text, STOP, True)), scene), [[expected]], atol=1e-6)


def test_reasoning_of_a_clear_road_has_no_attributes_to_miss():
    text = "Keep speed, keep lane: road clear."
    np.testing.assert_allclose(reasoning.reward(outcome((text, KEEP, True)), truth()), [[1.0]])


SHARES = st.floats(0, 1, width=32)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(st.tuples(SHARES, SHARES, SHARES, SHARES), st.integers(0, 3), SHARES)
def test_reasoning_never_falls_when_a_part_gets_better(values, which, more):
    better = list(values)
    better[which] = min(1.0, better[which] + more)
    low, high = float(reasoning.grade(*values)), float(reasoning.grade(*better))
    assert 0 <= low <= high + 1e-6 <= 1 + 2e-6


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        (STOP_TEXT, STOP, 1),
        (STOP_TEXT, KEEP, 0),
        ("Keep speed, keep lane: road clear.", KEEP, 1),
        ("Keep speed, keep lane: road clear.", STOP, 0),
        ("Keep speed, nudge left: stopped vehicle on the right within 24 m.", drive(shift=1.5), 1),
        ("Keep speed, nudge right: stopped vehicle on the left within 24 m.", drive(shift=1.5), 0),
        ("Keep speed, nudge left: stopped vehicle on the right within 24 m.", drive(shift=3.2), 0),
        ("Keep speed, keep lane: road clear.", drive(shift=1.5), 0),
        ("Follow lead, keep lane: lead vehicle braking within 24 m.", drive(acceleration=-0.8), 1),
        ("Yield, keep lane: pedestrian on the road from the left within 24 m.", drive(acceleration=-1.0), 1),
        ("Yield, keep lane: pedestrian on the road from the left within 24 m.", KEEP, 0),
        (
            "Speed up to pass, change lane left: lead vehicle moving within 24 m.",
            drive(acceleration=1, shift=3.2),
            1,
        ),
        ("Drive well.", KEEP, 0),
        ("Stop and keep lane: red light within 24 m.", STOP, 0),  # unparsable is not consistent
    ],
)
def test_consistency_by_hand(text, path, expected):
    assert consistency.reward(outcome((text, path, True)), truth())[0, 0] == expected


def test_consistency_does_not_look_at_the_truth():
    row = outcome((STOP_TEXT, STOP, True))
    assert (
        consistency.reward(row, truth())[0, 0] == consistency.reward(row, truth("stop", cause=RED))[0, 0] == 1
    )


def test_keeping_lane_in_a_bend_is_keeping_lane():
    bend = drive(curvature=0.012)
    scene = truth(road=(0.012, -5.0, 5.0))
    text = "Keep speed, keep lane: road clear."
    assert consistency.reward(outcome((text, bend, True), (text, KEEP, True)), scene).tolist() == [[1, 0]]


def test_every_decision_of_the_closed_sets_has_a_row():
    assert set(consistency.LONGITUDINAL_GOES_WITH) == set(coc.LONGITUDINAL)
    assert set(consistency.LATERAL_GOES_WITH) == set(coc.LATERAL)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    st.floats(0, 200), st.booleans(), SHARES, st.floats(0, 0.99), st.integers(0, 3), st.floats(0, 1, width=32)
)
def test_trajectory_quality_falls_with_every_error(ade, collision, off, comfort, which, more):
    values = [ade, float(collision), off, comfort]
    worse = list(values)
    worse[which] = worse[which] + more if which == 0 else min(1.0, worse[which] + more)
    good, bad = float(trajectory.quality(*values)), float(trajectory.quality(*worse))
    assert -1 <= bad <= good + 1e-6 <= 1 + 2e-6


def test_collision_needs_the_box_in_the_way_at_the_same_time():
    ahead, aside = truth(agents=[(30.0, 0, 0, 4, 2)]), truth(agents=[(30.0, 3.0, 0, 4, 2)])
    rows = outcome(("", KEEP, True), ("", STOP, True))  # the second stands at 25 m, its front at 28.7 m
    assert trajectory.parts(rows, ahead)["collision"].tolist() == [[1, 1]]
    assert trajectory.parts(rows, truth(agents=[(34.0, 0, 0, 4, 2)]))["collision"].tolist() == [[1, 0]]
    assert trajectory.parts(rows, aside)["collision"].tolist() == [[0, 0]]
    turned = truth(agents=[(30.0, 3.0, np.pi / 2, 4.4, 2)])
    assert trajectory.parts(rows, turned)["collision"].tolist() == [[1, 0]]
    gone = ahead.replace(agents=ahead.agents.at[..., 5].set(0))
    assert trajectory.parts(rows, gone)["collision"].tolist() == [[0, 0]]


def test_off_road_is_the_share_of_waypoints_outside():
    narrow = truth(road=(0.0, -5.0, 1.7))
    share = trajectory.parts(outcome(("", drive(shift=1.5), True), ("", drive(shift=-1.5), True)), narrow)[
        "off_road"
    ]
    y = drive(shift=1.5)[0][:, 1]  # the car stays parallel to the road: its left side is 0.95 m further out
    np.testing.assert_allclose(share[0], [np.mean(y > 1.7 - 0.95), 0.0], atol=1e-6)


def test_speeds_are_exact_under_constant_acceleration():
    xyz, _ = drive(speed=8.0, acceleration=1.5)
    np.testing.assert_allclose(
        outcomes.speeds(jnp.asarray(xyz), jnp.asarray(8.0)), 8.0 + 1.5 * np.arange(65) * 0.1, atol=2e-4
    )


def test_every_valid_reward_is_above_the_floor_and_every_invalid_one_on_it():
    worst = (
        drive(speed=30.0, acceleration=9.0, shift=-9),
        drive(speed=0.0),
        drive(shift=40.0, acceleration=-9),
    )
    rows = [("", path, True) for path in worst] + [(STOP_TEXT, STOP, False)]
    scene = truth("stop", "lane_keeping", RED, acceleration=-2.0, agents=[(30.0, 0, 0, 4, 2)])
    total, parts = combine(outcome(*rows), scene)
    assert float(total[0, :3].min()) > float(total[0, 3]) == pytest.approx(rewards.floor(WEIGHTS))
    assert (
        rewards.floor(WEIGHTS)
        < sum(WEIGHTS[name] * rewards.REWARDS[name].BOUNDS[0] for name in WEIGHTS) - 0.1
    )
    for name, values in parts.items():
        low, high = rewards.REWARDS[name].BOUNDS
        assert low <= float(values.min()) and float(values.max()) <= high


def test_an_invalid_completion_cannot_bring_in_nan():
    row = outcome((STOP_TEXT, (np.full((64, 3), np.nan, "float32"), STOP[1]), False))
    total, _ = combine(row, truth())
    assert float(total[0, 0]) == pytest.approx(rewards.floor(WEIGHTS))


def test_always_keeping_lane_and_speed_does_not_win():
    """It is consistent everywhere; over a mix with half the scenes reactive it must lose to an honest policy
    that errs."""
    keep_text = "Keep speed, keep lane: road clear."
    free, red = truth(), truth("stop", "lane_keeping", RED, acceleration=-2.0)
    lazy = [combine(outcome((keep_text, KEEP, True)), scene)[0][0, 0] for scene in (free, red)]
    late = drive(acceleration=-1.5)
    honest = [
        combine(outcome((text, path, True)), scene)[0][0, 0]
        for text, path, scene in (
            (keep_text, KEEP, free),
            ("Stop, keep lane: red light within 48 m.", late, red),
        )
    ]
    assert float(sum(lazy)) < float(sum(honest)) - 0.5


def test_unknown_or_negative_weights_are_refused():
    with pytest.raises(ValueError, match="comfort.*consistency"):
        rewards.check_weights({"comfort": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        rewards.check_weights({"reasoning": -1.0})
