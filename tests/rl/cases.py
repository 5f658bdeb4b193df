"""Scenes and completions made by hand for the tests of rewards: a straight road, a driver that keeps 10
m/s."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.rl import outcomes, rewards
from ar1_jax.text import coc

TIMES = np.arange(1, 65) * 0.1


WEIGHTS = {"reasoning": 1.0, "consistency": 0.5, "trajectory": 1.0}
combine = jax.jit(lambda rows, scene: rewards.combine(rows, scene, WEIGHTS))


def drive(speed=10.0, acceleration=0.0, curvature=0.0, shift=0.0):
    """-> xyz [64, 3], rot [64, 3, 3]: constant acceleration (down to standing) on an arc, moved left by up to
    shift."""
    end = np.inf if acceleration >= 0 else -speed / acceleration
    t = np.minimum(TIMES, end)
    s = speed * t + 0.5 * acceleration * t**2
    yaw = curvature * s
    x, y = (s, 0 * s) if curvature == 0 else (np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature)
    y = y + shift * 0.5 * (1 - np.cos(np.pi * np.minimum(TIMES / 3.0, 1.0)))
    rot = np.zeros((64, 3, 3))
    rot[:, 0, 0], rot[:, 0, 1], rot[:, 1, 0], rot[:, 1, 1] = (
        np.cos(yaw),
        -np.sin(yaw),
        np.sin(yaw),
        np.cos(yaw),
    )
    rot[:, 2, 2] = 1
    return np.stack([x, y, 0 * x], -1).astype("float32"), rot.astype("float32")


def truth(
    longitudinal="set_speed",
    lateral="lane_keeping",
    cause=("clear", None, None),
    speed=10.0,
    agents=(),
    **how,
):
    """One scene; agents: rows (x, y, yaw, length, width) that stand still."""
    xyz, _ = drive(speed=speed, **how)
    boxes = np.zeros((1, max(len(agents), 1), 64, 7), "float32")
    for n, box in enumerate(agents):
        boxes[0, n, :, :5], boxes[0, n, :, 5] = box, 1
    return outcomes.Truth(
        speed=jnp.array([speed]),
        longitudinal=jnp.array([coc.LONGITUDINAL.index(longitudinal)]),
        lateral=jnp.array([coc.LATERAL.index(lateral)]),
        cause=jnp.array([coc.Cause(*cause).indices()]),
        future_xyz=jnp.asarray(xyz)[None],
        agents=jnp.asarray(boxes),
        curvature=jnp.array([0.0]),
        edges=jnp.array([[5.0, 5.0]]),
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
