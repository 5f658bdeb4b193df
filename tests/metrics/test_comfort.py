"""Against motions whose derivatives are known in closed form; each mended defect of the release has its case."""

import jax
import numpy as np
import pytest

from ar1_jax.geometry import rotations
from ar1_jax.metrics import comfort

DT = 0.1
TIME = np.arange(-15, 65) * DT  # 16 poses of history, 64 of future
SIGNALS, COMFORT = jax.jit(comfort.signals), jax.jit(comfort.comfort)


def poses(x, y, yaw):
    """Arrays over TIME -> (xyz, rot, history_xyz, history_rot), float32, re-based at t0."""
    x, y, yaw = (np.asarray(v, np.float64) + 0 * TIME for v in (x, y, yaw))
    xyz = np.stack([x - x[15], y - y[15], 0 * x], -1).astype(np.float32)
    rot = np.asarray(rotations.from_yaw(yaw.astype(np.float32)))
    return xyz[16:], rot[16:], xyz[:16], rot[:16]


def circle(speed, radius):
    angle = speed * TIME / radius
    return poses(radius * np.sin(angle), radius * (1 - np.cos(angle)), angle)


def test_circle_has_v_squared_over_r():
    """Defect D12: the release sees nothing here. 15 m/s on 30 m is 7.5 m/s2, far beyond 4.89."""
    signals = SIGNALS(*circle(15.0, 30.0))
    np.testing.assert_allclose(signals["lat_accel"], 7.5, rtol=0.005)
    np.testing.assert_allclose(signals["yaw_rate"], 0.5, atol=1e-3)
    result = COMFORT(*circle(15.0, 30.0))
    assert float(result.inside["lat_accel"]) == 0.0 and not result.passes
    assert COMFORT(*circle(10.0, 30.0)).passes  # 3.3 m/s2


@pytest.mark.parametrize("accel", [-3.0, -0.5, 0.9, 2.0])
def test_constant_acceleration_has_no_jerk(accel):
    """Defect D13: the repeated last difference of the release fails |a| > 0.413 m/s2 at the horizon's end."""
    motion = poses(20.0 * TIME + accel * TIME**2 / 2, 0.0, 0.0)
    signals = SIGNALS(*motion)
    np.testing.assert_allclose(signals["lon_accel"], accel, atol=0.03)  # float32 metres over 0.01 s2
    np.testing.assert_allclose(signals["lon_jerk"], 0.0, atol=0.5)
    assert COMFORT(*motion).passes
    lengths = {name: series.shape[-1] for name, series in signals.items()}
    assert lengths == {
        "lon_accel": 65,
        "lat_accel": 65,
        "jerk": 64,
        "lon_jerk": 64,
        "yaw_rate": 66,
        "yaw_accel": 65,
    }


def test_jump_at_t0_is_seen():
    """Defect D14: 10 m/s before t0, 13 m/s after it."""
    xyz, rot, past, past_rot = poses(np.where(TIME > 0, 13.0, 10.0) * TIME, 0.0, 0.0)
    result = COMFORT(xyz, rot, past, past_rot)
    assert not result.passes
    np.testing.assert_allclose(SIGNALS(xyz, rot, past, past_rot)["lon_accel"].max(), 30.0, rtol=0.01)
    assert COMFORT(xyz, rot).passes, "without history the seam cannot be seen: this is what the test probes"


def test_known_jerk():
    """x = 10 t + t^3 / 3 after t0: jerk 2 m/s3."""
    motion = poses(10.0 * TIME + np.maximum(TIME, 0) ** 3 / 3, 0.0, 0.0)
    np.testing.assert_allclose(SIGNALS(*motion)["jerk"][4:40], 2.0, atol=0.5)


def test_heading_wraps():
    """Driving on through +-pi: constant yaw rate, nothing special at the seam of the angle."""
    angle = 0.5 * TIME + np.pi - 1.0
    motion = poses(np.sin(angle) * 20, -np.cos(angle) * 20, angle)
    np.testing.assert_allclose(SIGNALS(*motion)["yaw_rate"], 0.5, atol=1e-3)


def test_excess_grows_with_the_violation():
    mild, hard = (COMFORT(*circle(speed, 30.0)) for speed in (12.5, 16.0))
    assert 0.0 < float(mild.excess) < float(hard.excess)
    assert float(COMFORT(*circle(8.0, 30.0)).excess) == 0.0


def test_batch_equals_single():
    motions = [circle(10.0, 30.0), circle(15.0, 30.0), poses(10.0 * TIME, 0.0, 0.0)]
    stacked = [np.stack(parts) for parts in zip(*motions)]
    both = comfort.comfort(*stacked)
    for row, motion in enumerate(motions):
        np.testing.assert_allclose(both.score[row], COMFORT(*motion).score, atol=1e-6)
    shared = comfort.comfort(stacked[0], stacked[1], motions[0][2], motions[0][3])
    assert shared.score.shape == (3,)
