"""Trajectories and decisions of those who do not look: what any figure of a policy is compared with.

B scenes, W waypoints 0.1 s apart, metres, ego frame at t0 (x forward, y left). History: 16 rows, 10 Hz, last = origin.
"""

import numpy as np

DT = 0.1
WAYPOINTS = 64


def state(history_xyz, history_rot):
    """Speed [B] m/s and curvature [B] 1/m at t0 from history f32 [B, 16, 3] and [B, 16, 3, 3].

    Speed from the last displacement; curvature from the turn of the heading over the last half second, over the
    way driven in it (0 below 0.5 m of way).
    """
    steps = np.diff(np.asarray(history_xyz, np.float64)[..., :2], axis=-2)
    lengths = np.linalg.norm(steps, axis=-1)
    speed = lengths[:, -1] / DT
    rotation = np.asarray(history_rot, np.float64)
    yaw = np.unwrap(np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0]), axis=-1)
    way = lengths[:, -5:].sum(-1)
    curvature = np.where(way > 0.5, (yaw[:, -1] - yaw[:, -6]) / np.maximum(way, 0.5), 0.0)
    return speed, curvature


def constant_velocity(history_xyz, history_rot):
    """Straight on with the last displacement: f64 [B, 64, 3]; the rotations are not used."""
    del history_rot
    history_xyz = np.asarray(history_xyz, np.float64)
    step = history_xyz[:, -1] - history_xyz[:, -2]
    return history_xyz[:, -1:] + np.arange(1, WAYPOINTS + 1)[:, None] * step[:, None]


def constant_speed_and_curvature(history_xyz, history_rot):
    """Along the present circle with the present speed: f64 [B, 64, 3], z = 0; closed form of the arc."""
    speed, curvature = state(history_xyz, history_rot)
    way = speed[:, None] * DT * np.arange(1, WAYPOINTS + 1)
    angle = way * curvature[:, None]
    x = way * np.sinc(angle / np.pi)
    y = way * 0.5 * angle * np.square(np.sinc(0.5 * angle / np.pi))
    return np.stack([x, y, np.zeros_like(x)], axis=-1)


def majority(longitudinal, lateral):
    """The most frequent pair of decisions among ints [n], [n] -> (longitudinal, lateral)."""
    pairs, counts = np.unique(np.stack([longitudinal, lateral], -1), axis=0, return_counts=True)
    return tuple(int(x) for x in pairs[np.argmax(counts)])
