"""Future motion as ids: two a control, acceleration then curvature (paper section 5.1).

A controls, ... any leading axes. Uniform bins as released (`DiscreteTrajectoryTokenizer`), or squared ones, finer
near zero and with a bin that is exactly zero: 0.0015 1/m held for 6.4 s at 10 m/s would be 3 m sideways.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.actions import config as configs
from ar1_jax.actions import unicycle


def _ranges(c: configs.FutureCodecConfig):
    return np.array(c.dims_min, np.float32), np.array(c.dims_max, np.float32)


def _zero_bins(c: configs.FutureCodecConfig) -> np.ndarray:
    """Index of the exact zero per channel, squared spacing: bins are shared by the roots of the two ranges."""
    below, above = np.sqrt(-np.array(c.dims_min)), np.sqrt(np.array(c.dims_max))
    return np.round((c.num_bins - 1) * below / (below + above)).astype(np.int32)


def quantise(actions: jax.Array, c: configs.FutureCodecConfig) -> jax.Array:
    """Actions [..., 2] -> bins int32 [..., 2], each in 0 .. num_bins-1: nearest, outside the range the last."""
    low, high = _ranges(c)
    if c.spacing == "uniform":
        bins = jnp.round((actions - low) / (high - low) * (c.num_bins - 1))
        return jnp.clip(bins, 0, c.num_bins - 1).astype(jnp.int32)
    zero = _zero_bins(c)
    limit = jnp.where(actions < 0, -low, high)
    steps = jnp.where(actions < 0, zero, c.num_bins - 1 - zero)
    u = jnp.sqrt(jnp.clip(jnp.abs(actions) / limit, 0, 1)) * steps
    below = jnp.floor(u)  # nearest in the value, not in its root
    u = below + ((u * u - below * below) > ((below + 1) ** 2 - u * u))
    return (zero + jnp.sign(actions) * jnp.minimum(u, steps)).astype(jnp.int32)


def dequantise(bins: jax.Array, c: configs.FutureCodecConfig) -> jax.Array:
    """Bins [..., 2] -> actions float32 [..., 2]."""
    low, high = _ranges(c)
    if c.spacing == "uniform":
        return bins.astype(jnp.float32) / (c.num_bins - 1) * (high - low) + low
    zero = _zero_bins(c)
    away = bins - zero
    share = away / jnp.where(away < 0, zero, c.num_bins - 1 - zero)
    return share * jnp.abs(share) * jnp.where(away < 0, -low, high)


def _offsets(c: configs.FutureCodecConfig) -> np.ndarray:
    return np.array([0, c.num_bins if c.separate else 0], np.int32)


def actions_to_ids(actions: Any, config: Any) -> jax.Array:
    """Actions [..., A, 2] -> int32 [..., 2A]: each control to its nearest bins."""
    c = configs.FutureCodecConfig.of(config)
    ids = quantise(jnp.asarray(actions, jnp.float32), c) + _offsets(c)
    return ids.reshape(*ids.shape[:-2], -1)


def ids_to_actions(ids: Any, config: Any) -> jax.Array:
    """Ids [..., 2A] -> actions float32 [..., A, 2]; ids outside their channel's range are moved to its nearest end."""
    c = configs.FutureCodecConfig.of(config)
    bins = jnp.asarray(ids, jnp.int32).reshape(*np.shape(ids)[:-1], -1, 2) - _offsets(c)
    return dequantise(jnp.clip(bins, 0, c.num_bins - 1), c)


def future_ids(
    history_xyz: Any, history_rot: Any, future_xyz: Any, future_rot: Any, config: Any
) -> jax.Array:
    """A motion (as unicycle_encode) -> int32 [..., 2A], acceleration and curvature in turn.

    Ids are 0 .. num_bins-1 for both, or num_bins .. 2 num_bins-1 for curvature where `separate`.
    """
    c = configs.FutureCodecConfig.of(config)
    motion = (history_xyz, history_rot, future_xyz, future_rot)
    return actions_to_ids(unicycle.unicycle_encode(*motion, c.action_space), c)


def decode_future_ids(
    ids: Any, history_xyz: Any, history_rot: Any, config: Any
) -> tuple[jax.Array, jax.Array]:
    """Ids [..., 2A] -> xyz float32 [..., 64, 3] m, rot [..., 64, 3, 3]."""
    c = configs.FutureCodecConfig.of(config)
    return unicycle.unicycle_decode(ids_to_actions(ids, c), history_xyz, history_rot, c.action_space)
