"""Normalised actions to bins and back: uniform as released (`DiscreteTrajectoryTokenizer`), or squared.

Squared bins lie at range * u², u equally spaced: finer near zero, and one bin is exactly zero (0.0015 1/m held for
6.4 s at 10 m/s would be 3 m sideways).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.actions import config as configs


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
