"""Against circles drawn in NumPy and distances worked by hand."""

import numpy as np

from ar1_jax.geometry import rotations
from ar1_jax.metrics import road

STRAIGHT = np.array([0.0, -5.0, 5.0], np.float32)


def test_overhang_by_hand():
    """Width 1.9 m: at y = 4 the left side is at 4.95; turned by 90 degrees the front, 3.7 m ahead, is the outermost."""
    xyz = np.array([[0, 0, 0], [0, 4, 0], [0, 4.5, 0], [0, 4, 0]], np.float32)
    rot = rotations.from_yaw(np.array([0, 0, 0, np.pi / 2], np.float32))
    np.testing.assert_allclose(road.overhang(xyz, rot, STRAIGHT), [-4.05, -0.05, 0.45, 2.7], atol=1e-5)
    assert np.asarray(road.off_road(xyz, rot, STRAIGHT)).tolist() == [False, False, True, True]


def test_arc_edges_are_circles():
    """On a left curve of 80 m radius with a road of +-5 m: distance from the circle's centre, minus its radius."""
    angle = np.linspace(0.0, 1.2, 30)
    for offset in (-4.2, -2.0, 0.0, 3.0, 4.2):
        radius = 80.0 - offset
        xyz = np.stack([radius * np.sin(angle), 80.0 - radius * np.cos(angle), 0 * angle], -1).astype(
            np.float32
        )
        rot = np.asarray(rotations.from_yaw(angle.astype(np.float32)))
        body = np.array([[x, y] for x in (3.7, -1.0) for y in (0.95, -0.95)])
        points = xyz[:, None, :2] + np.einsum("nij,cj->nci", rot[:, :2, :2], body)
        d = 80.0 - np.hypot(points[..., 0], points[..., 1] - 80.0)
        want = np.maximum(d - 5.0, -5.0 - d).max(-1)
        got = road.overhang(xyz, rot, np.array([1 / 80, -5.0, 5.0], np.float32))
        np.testing.assert_allclose(got, want, atol=2e-4)
        np.testing.assert_allclose(
            road.lane_offset(xyz, np.array([1 / 80, -5.0, 5.0], np.float32)), offset, atol=2e-4
        )


def test_batch_of_roads():
    roads = np.array([[0.0, -5, 5], [0.0, -2, 2]], np.float32)
    xyz = np.zeros((2, 4, 3), np.float32) + np.array([0, 2.0, 0], np.float32)
    rot = np.broadcast_to(np.eye(3, dtype=np.float32), (2, 4, 3, 3))
    assert np.asarray(road.off_road(xyz, rot, roads)).tolist() == [[False] * 4, [True] * 4]


def test_front_counts_at_the_stop_line():
    xyz = np.array([[6.2, 0, 0], [6.4, 0, 0]], np.float32)
    crossed = road.crosses_line(xyz, np.float32(10.0), np.float32(0.0))
    assert np.asarray(crossed).tolist() == [False, True]
