"""Baselines against small steps along a circle, integrated by hand."""

import numpy as np
import pytest

from ar1_jax.evaluate import baselines


def drive(speed, curvature, times):
    """Poses on a circle through the origin, by 1 ms Euler midpoints: xy [n, 2], yaw [n]."""
    poses = []
    for end in times:
        n = max(int(abs(end) * 1000), 1)
        dt, x, y, yaw = end / n, 0.0, 0.0, 0.0
        for _ in range(n):
            middle = yaw + 0.5 * dt * speed * curvature
            x, y, yaw = (
                x + dt * speed * np.cos(middle),
                y + dt * speed * np.sin(middle),
                yaw + dt * speed * curvature,
            )
        poses.append((x, y, yaw))
    poses = np.array(poses)
    return poses[:, :2], poses[:, 2]


def history(speed, curvature):
    xy, yaw = drive(speed, curvature, -0.1 * np.arange(15, -1, -1))
    rotation = np.tile(np.eye(3), (16, 1, 1))
    rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(yaw)
    rotation[:, 1, 0], rotation[:, 0, 1] = np.sin(yaw), -np.sin(yaw)
    return np.pad(xy, ((0, 0), (0, 1)))[None], rotation[None]


@pytest.mark.parametrize("speed, curvature", [(12.0, 0.012), (8.0, -0.05), (10.0, 0.0), (0.0, 0.0)])
def test_constant_speed_and_curvature_follows_the_circle(speed, curvature):
    got = baselines.constant_speed_and_curvature(*history(speed, curvature))[0]
    want, _ = drive(speed, curvature, 0.1 * np.arange(1, 65))
    np.testing.assert_allclose(got[:, :2], want, atol=0.02)


def test_constant_velocity_is_the_last_step_repeated():
    xyz, rot = history(10.0, 0.02)
    got = baselines.constant_velocity(xyz, rot)[0]
    np.testing.assert_allclose(got[9], -10 * xyz[0, -2], atol=1e-9)


def test_majority_counts_pairs_not_channels():
    assert baselines.majority([0, 0, 1, 1, 1], [2, 2, 0, 1, 3]) == (0, 2)
