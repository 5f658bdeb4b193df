"""Distance of trajectories from the truth: ADE, FDE, minADE as the released evaluation defines them.

K samples, W waypoints 0.1 s apart, any leading batch; metres, in the plane. minADE picks the sample by its mean
over the whole horizon, and shorter horizons keep the same sample: nothing is minimised twice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HORIZONS = (0.5, 1.0, 3.0, 5.0)  # s, those of the release


class Best(NamedTuple):
    ade: jax.Array  # [...] m of the best sample
    index: jax.Array  # [...] i32: which it is
    fde: jax.Array  # [...] m of the same sample
    by_horizon: dict[float, jax.Array]  # seconds -> [...] m of the same sample


def distances(trajectory, truth):
    """Trajectories [..., K, W, >= 2] and truth [..., W, >= 2] -> [..., K, W] m."""
    return jnp.sqrt(jnp.sum((trajectory[..., :2] - truth[..., None, :, :2]) ** 2, -1))


def ade(trajectory, truth):
    """-> [..., K] m, mean over waypoints."""
    return jnp.mean(distances(trajectory, truth), -1)


def fde(trajectory, truth):
    """-> [..., K] m at the last waypoint."""
    return distances(trajectory, truth)[..., -1]


def min_ade(trajectory, truth, dt: float = 0.1, horizons=HORIZONS) -> Best:
    """Trajectories [..., K, W, >= 2], truth [..., W, >= 2] -> Best."""
    far = distances(trajectory, truth)
    index = jnp.argmin(jnp.mean(far, -1), -1)
    best = jnp.take_along_axis(far, index[..., None, None], -2)[..., 0, :]
    until = {seconds: jnp.mean(best[..., : int(round(seconds / dt))], -1) for seconds in horizons}
    return Best(jnp.mean(best, -1), index.astype(jnp.int32), best[..., -1], until)
