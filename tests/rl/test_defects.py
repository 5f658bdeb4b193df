"""Known defects of the released RL recipe, each with the test that would have caught it. Numbers as in
docs/rl.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.rl import advantages, objectives, rewards
from ar1_jax.rl.rewards import trajectory
from tests.rl.cases import drive, outcome, truth

WEIGHTS = {"reasoning": 1.0, "consistency": 0.5, "trajectory": 1.0}
RED = ("red_light", None, 24)
STOP = drive(acceleration=-2.0)


def total(text, path, scene):
    return float(rewards.combine(outcome((text, path, True)), scene, WEIGHTS)[0][0, 0])


def test_d1_better_reasoning_never_earns_less():
    scene = truth("stop", "lane_keeping", RED, acceleration=-2.0)
    worse_to_better = [
        "Keep speed, nudge left: road clear.",
        "Keep speed, keep lane: road clear.",
        "Stop, keep lane: road clear.",
        "Stop, keep lane: red light within 48 m.",
        "Stop, keep lane: red light within 36 m.",
        "Stop, keep lane: red light within 24 m.",
    ]
    earned = [total(text, STOP, scene) for text in worse_to_better]
    assert all(low < high for low, high in zip(earned, earned[1:], strict=False)), earned
    # and at fixed reasoning, a trajectory further from the driver's never earns more
    far = [total(worse_to_better[-1], drive(acceleration=a), scene) for a in (-2.0, -1.8, -1.5, -1.2)]
    assert all(high > low for high, low in zip(far, far[1:], strict=False)), far


def test_d5_stale_log_probs_give_ratios_and_clips():
    new, mask = jnp.array([[[-1.0, -2.0], [-0.5, -0.7]]]), jnp.ones((1, 2, 2), bool)
    advantage = jnp.array([[1.0, -1.0]])
    fresh = objectives.clipped(new, new, advantage, mask).metrics
    stale = objectives.clipped(new, new - 0.5, advantage, mask).metrics
    assert float(fresh["ratio_mean"]) == 1.0 and float(fresh["clip_fraction"]) == 0.0
    assert float(stale["ratio_mean"]) > 1.5 and float(stale["clip_fraction"]) == 0.5


def test_d12_cornering_is_felt_in_the_interior():
    """Constant radius: v^2 / R at every step; an S-curve's peak likewise."""
    xyz, rot = drive(speed=15.0, curvature=0.04)
    signals = trajectory.comfort_signals(jnp.asarray(xyz), jnp.asarray(rot), jnp.asarray(15.0))
    np.testing.assert_allclose(signals["lateral"], 15.0**2 * 0.04, rtol=2e-3)
    assert float(trajectory.discomfort(jnp.asarray(xyz), jnp.asarray(rot), jnp.asarray(15.0))) > 0.4
    t = np.arange(0, 65) * 0.1
    curvature = 0.06 * np.sin(2 * np.pi * t / 3.2)
    yaw = np.concatenate([[0], np.cumsum(15.0 * 0.1 * 0.5 * (curvature[1:] + curvature[:-1]))])
    steps = 1.5 * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    path = np.cumsum(0.5 * (steps[1:] + steps[:-1]), 0)
    rot = np.tile(np.eye(3), (64, 1, 1))
    rot[:, 0, 0] = rot[:, 1, 1] = np.cos(yaw[1:])
    rot[:, 1, 0], rot[:, 0, 1] = np.sin(yaw[1:]), -np.sin(yaw[1:])
    path = jnp.asarray(np.concatenate([path, np.zeros((64, 1))], -1), jnp.float32)
    signals = trajectory.comfort_signals(path, jnp.asarray(rot, jnp.float32), jnp.asarray(15.0))
    np.testing.assert_allclose(np.abs(signals["lateral"]).max(), 15.0**2 * 0.06, rtol=0.03)


@pytest.mark.parametrize("acceleration", [-1.0, 0.5, 2.0])
def test_d13_constant_acceleration_has_no_jerk_at_any_step(acceleration):
    xyz, rot = drive(speed=12.0, acceleration=acceleration)
    signals = trajectory.comfort_signals(jnp.asarray(xyz), jnp.asarray(rot), jnp.asarray(12.0))
    np.testing.assert_allclose(signals["acceleration"], acceleration, atol=5e-3)
    assert float(jnp.abs(signals["jerk"]).max()) < 0.1  # float32 positions, twice differenced
    assert float(trajectory.discomfort(jnp.asarray(xyz), jnp.asarray(rot), jnp.asarray(12.0))) == 0.0


def test_d13_constant_curvature_has_no_artefact_at_the_end():
    xyz, rot = drive(speed=10.0, curvature=0.02)
    lateral = trajectory.comfort_signals(jnp.asarray(xyz), jnp.asarray(rot), jnp.asarray(10.0))["lateral"]
    np.testing.assert_allclose(lateral[-5:], 2.0, rtol=2e-3)


def test_d14_a_jump_at_the_seam_is_felt_and_penalties_are_graded():
    """Measured 10 m/s, the plan starts at 13 m/s: flagged. Twice the excess costs more, not the same."""
    feel = lambda speed, measured: float(
        trajectory.discomfort(*map(jnp.asarray, drive(speed=speed)), jnp.asarray(measured))
    )
    assert feel(10.0, 10.0) == 0.0 < feel(13.0, 10.0) < feel(16.0, 10.0)
    slow, fast = (drive(speed=15.0, curvature=c) for c in (0.025, 0.03))
    grade = [
        float(trajectory.discomfort(*map(jnp.asarray, path), jnp.asarray(15.0))) for path in (slow, fast)
    ]
    assert 0 < grade[0] < grade[1] < 1


def test_d15_hairs_breadth_differences_stay_small():
    rewards_ = jnp.zeros((1, 12)).at[0, 0].set(1e-5)
    naive = (rewards_ - rewards_.mean()) / (rewards_.std() + 1e-6)
    assert float(jnp.abs(naive).max()) > 2  # the defect, so that this test is seen to see it
    for name in advantages.ADVANTAGES:
        assert float(jnp.abs(advantages.advantages(name, rewards_)).max()) < 1e-3, name
    assert not bool(advantages.active_groups(rewards_)[0])


def test_d15_one_failure_does_not_wipe_out_the_order_of_the_others():
    ade = np.linspace(0.2, 3.5, 11)
    good = [("Keep speed, keep lane: road clear.", drive(speed=10.0 + a / 3.2), True) for a in ade]
    values, _ = rewards.combine(outcome(*good, ("", drive(), False)), truth(), WEIGHTS)
    advantage = advantages.advantages("dr_grpo", values)[0]
    assert np.all(np.diff(advantage[:11]) < 0) and float(advantage[0] - advantage[10]) > 0.3
    assert int(jnp.argmin(advantage)) == 11


def test_d24_kl_losses_have_the_gradient_of_the_reverse_kl_and_k3_is_refused():
    logits, reference = jnp.array([0.3, -0.2, 0.5]), jax.nn.log_softmax(jnp.array([0.0, 0.4, -0.6]))

    def true_kl(x):
        return jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference))

    for name in objectives.KL_LOSSES:
        loss = lambda x, name=name: jnp.sum(
            jax.nn.softmax(logits) * objectives.kl_loss(name, jax.nn.log_softmax(x), reference)
        )
        np.testing.assert_allclose(jax.grad(loss)(logits), jax.grad(true_kl)(logits), atol=1e-6)
    with pytest.raises(ValueError, match="k2"):
        objectives.kl_loss("k3", logits, reference)
