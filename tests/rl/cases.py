"""Scenes and completions made by hand for the tests of rewards: a straight road, a driver that keeps 10 m/s."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.rl import outcomes, rewards
from ar1_jax.text import coc

TIMES, PAST = np.arange(1, 65) * 0.1, np.arange(-15, 1) * 0.1
WEIGHTS = {"reasoning": 1.0, "consistency": 0.5, "trajectory": 1.0}
combine = jax.jit(lambda rows, scene: rewards.combine(rows, scene, WEIGHTS))


def drive(speed=10.0, acceleration=0.0, curvature=0.0, shift=0.0, times=TIMES):
    """-> xyz [n, 3], rot [n, 3, 3]: constant acceleration (down to standing) on an arc, moved left by up to shift."""
    end = np.inf if acceleration >= 0 else -speed / acceleration
    t = np.minimum(times, end)
    s = speed * t + 0.5 * acceleration * t**2
    yaw = curvature * s
    x, y = (s, 0 * s) if curvature == 0 else (np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature)
    y = y + shift * 0.5 * (1 - np.cos(np.pi * np.clip(times / 3.0, 0.0, 1.0)))
    return np.stack([x, y, 0 * x], -1).astype("float32"), turned(yaw)


def turned(yaw):
    """yaw [n] -> rotations [n, 3, 3]."""
    c, s, zero, one = np.cos(yaw), np.sin(yaw), 0 * yaw, 1 + 0 * yaw
    rows = ((c, -s, zero), (s, c, zero), (zero, zero, one))
    return np.stack([np.stack(row, -1) for row in rows], -2).astype("float32")


def motion(past=None, **how):
    """-> xyz, rot, history xyz, history rot of one drive; past: another drive() argument set for the history."""
    return tuple(map(jnp.asarray, (*drive(**how), *drive(**(how if past is None else past), times=PAST))))


CLEAR, ROAD = ("clear", None, None), (0.0, -5.0, 5.0)


def truth(longitudinal="set_speed", lateral="lane_keeping", cause=CLEAR, agents=(), road=ROAD, **how):
    """One scene; agents: rows (x, y, yaw, length, width) that stand still; road: curvature, right and left edge."""
    xyz, _ = drive(**how)
    past_xyz, past_rot = drive(speed=how.get("speed", 10.0), times=PAST)
    boxes = np.zeros((1, max(len(agents), 1), 64, 7), "float32")
    for n, box in enumerate(agents):
        boxes[0, n, :, :5], boxes[0, n, :, 5] = box, 1
    return outcomes.Truth(
        longitudinal=jnp.array([coc.LONGITUDINAL.index(longitudinal)]),
        lateral=jnp.array([coc.LATERAL.index(lateral)]),
        cause=jnp.array([coc.Cause(*cause).indices()]),
        history_xyz=jnp.asarray(past_xyz)[None],
        history_rot=jnp.asarray(past_rot)[None],
        future_xyz=jnp.asarray(xyz)[None],
        agents=jnp.asarray(boxes),
        road=jnp.array([[*road, 1e3, 0.0]], jnp.float32),
    )


def outcome(*rows):
    """rows of (text, (xyz, rot), valid) -> Outcome of one scene and len(rows) completions."""
    parsed = coc.parse_batch([text for text, _, _ in rows])
    return outcomes.Outcome(
        valid=jnp.array([[valid for _, _, valid in rows]]),
        longitudinal=jnp.asarray(parsed.longitudinal)[None],
        lateral=jnp.asarray(parsed.lateral)[None],
        cause=jnp.asarray(parsed.causes)[None],
        xyz=jnp.asarray(np.stack([path[0] for _, path, _ in rows]))[None],
        rot=jnp.asarray(np.stack([path[1] for _, path, _ in rows]))[None],
    )
