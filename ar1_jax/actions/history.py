"""Ego history as ids: steps between poses, quantised (`DeltaTrajectoryTokenizer` of the release).

h = 16 rows at 10 Hz, the last is t0. Released form: per row (x, y, z[, yaw]) difference to the row before, the first
against zero, so that the first triple is the absolute oldest position and saturates above 2.7 m/s; yaw is read with
the wrong sign when encoding and not when decoding. Both are kept for parity. Mended form: per `stride` rows the step
(dx, dy, dyaw) in the earlier pose's own frame; straight driving is (distance, 0, 0) whatever the heading.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.actions import config as configs
from ar1_jax.actions import unicycle

WINDOW, ORDER = 10, 3  # of the local polynomials that give the decoded headings


def _quantise(values, low, high, bins):
    scaled = (values - low) / (high - low) * (bins - 1)
    return jnp.clip(jnp.round(scaled), 0, bins - 1).astype(jnp.int32)


def _dequantise(ids, low, high, bins):
    """From the middle of the range outwards: steps near zero keep their relative precision."""
    return (2 * ids - (bins - 1)).astype(jnp.float32) * ((high - low) / (2 * (bins - 1))) + (low + high) / 2


def _wrap(angle):
    return jnp.arctan2(jnp.sin(angle), jnp.cos(angle))


def _limits(c: configs.HistoryCodecConfig):
    """(low, high) per id of one row: x, y[, z][, yaw]."""
    axes = 2 if c.mended else 3
    yaw = c.mended or c.predict_yaw
    low = (*c.ego_xyz_min[:axes], c.ego_yaw_min) if yaw else c.ego_xyz_min
    high = (*c.ego_xyz_max[:axes], c.ego_yaw_max) if yaw else c.ego_xyz_max
    return np.array(low, np.float32), np.array(high, np.float32)


def _released_steps(xyz, rot, c):
    def steps(x):  # against a zero row before the first
        return jnp.diff(x, axis=-2, prepend=jnp.zeros_like(x[..., :1, :]))

    if not c.predict_yaw:
        return steps(xyz)
    yaw = jnp.arctan2(rot[..., 0, 1], rot[..., 0, 0])[..., None]  # minus the heading, as released
    return jnp.concatenate([steps(xyz), _wrap(steps(yaw))], axis=-1)


def _own_frame_steps(xyz, rot, c):
    rows = slice((xyz.shape[-2] - 1) % c.stride, None, c.stride)
    xy, yaw = xyz[..., rows, :2], unicycle.yaw_of(rot[..., rows, :, :])
    dx, dy = jnp.moveaxis(jnp.diff(xy, axis=-2), -1, 0)
    cos, sin = jnp.cos(yaw[..., :-1]), jnp.sin(yaw[..., :-1])
    return jnp.stack([cos * dx + sin * dy, cos * dy - sin * dx, _wrap(jnp.diff(yaw, axis=-1))], axis=-1)


@jax.jit
def _encode(xyz, rot, c: configs.HistoryCodecConfig):
    steps = _own_frame_steps(xyz, rot, c) if c.mended else _released_steps(xyz, rot, c)
    ids = _quantise(steps, *_limits(c), c.num_bins)
    return ids.reshape(*ids.shape[:-2], -1)


@functools.cache
def _slope_weights(rows: int) -> np.ndarray:
    """[rows, rows]: steps between points -> derivative at each point of the cubic through its window of 10.

    numpy.polyfit is linear in the points, and its derivative ignores their common offset, so it is one matrix on
    the steps; computed here once, in float64, instead of a fit per point.
    """
    window = min(WINDOW, rows)
    weights = np.zeros((rows, rows))
    for i in range(rows):
        start = min(max(0, i - WINDOW // 2), rows - window)
        t = np.arange(window)
        powers = np.vander(t, ORDER + 1)  # highest first, as polyder expects
        slope = np.array([np.polyval(np.polyder(row), i - start) for row in np.eye(ORDER + 1)])
        weights[i, start : start + window] = slope @ np.linalg.pinv(powers)
    later = np.tril(np.ones((rows, rows)))  # point j = sum of steps 0 .. j
    weights = weights @ later
    weights[:, 0] = 0.0  # the common offset
    return weights.astype(np.float32)


@jax.jit
def _decode_released(ids, c):
    values = _dequantise(ids.reshape(*ids.shape[:-1], -1, 4 if c.predict_yaw else 3), *_limits(c), c.num_bins)
    xyz = jnp.cumsum(values[..., :3], axis=-2)
    if c.predict_yaw:
        return xyz, unicycle.rotation_of(jnp.cumsum(values[..., 3], axis=-1))
    weights = _slope_weights(values.shape[-2])
    slope = jnp.einsum("ij,...jk->...ik", weights, values[..., :2], precision="highest")
    return xyz, unicycle.rotation_of(jnp.arctan2(slope[..., 1], slope[..., 0]))


@jax.jit
def _decode_mended(ids, c):
    steps = _dequantise(ids.reshape(*ids.shape[:-1], -1, 3), *_limits(c), c.num_bins)
    yaw = jnp.cumsum(jnp.flip(-steps[..., 2], -1), axis=-1)  # backwards from t0, heading of each earlier pose
    yaw = jnp.flip(yaw, -1)
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    dx, dy = steps[..., 0], steps[..., 1]
    back = -jnp.stack([cos * dx - sin * dy, sin * dx + cos * dy, jnp.zeros_like(dx)], axis=-1)
    xyz = jnp.flip(jnp.cumsum(jnp.flip(back, -2), axis=-2), -2)
    xyz = jnp.concatenate([xyz, jnp.zeros_like(xyz[..., :1, :])], axis=-2)
    return xyz, unicycle.rotation_of(jnp.concatenate([yaw, jnp.zeros_like(yaw[..., :1])], axis=-1))


def history_ids(history_xyz: Any, history_rot: Any, config: Any) -> jax.Array:
    """History [..., 16, 3], [..., 16, 3, 3] -> int32 [..., n] in 0 .. num_bins-1, without vocabulary offset.

    n = 48, 64 with yaw; mended 3 a step (9 at stride 5).
    """
    c = configs.HistoryCodecConfig.of(config)
    return _encode(jnp.asarray(history_xyz, jnp.float32), jnp.asarray(history_rot, jnp.float32), c)


def decode_history_ids(ids: Any, config: Any) -> tuple[jax.Array, jax.Array]:
    """Ids [..., n] -> xyz float32 [..., rows, 3], rot [..., rows, 3, 3]; rows = 16, mended 1 + n/3 (ending at t0).

    Without yaw the headings come from cubics over windows of 10 points, as released.
    """
    c = configs.HistoryCodecConfig.of(config)
    ids = jnp.asarray(ids, jnp.int32)
    return _decode_mended(ids, c) if c.mended else _decode_released(ids, c)
