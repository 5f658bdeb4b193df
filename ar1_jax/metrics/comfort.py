"""Comfort of a trajectory: six signals against nuPlan's bounds, as the released RL recipe scores them, mended.

W waypoints dt apart, any leading batch; SI units. Mended against the release: lateral acceleration has its v * yaw rate
term, a series gets shorter with each difference instead of repeating its last value (which punishes constant
acceleration), and the seam counts: the last poses of the history are put before the first waypoint. Headings of an
interval are taken at its middle, so that a circle at constant speed is exact."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ar1_jax.geometry import rotations

BOUNDS = {
    "lon_accel": (-4.05, 2.40),  # m/s2
    "lat_accel": (-4.89, 4.89),  # m/s2
    "jerk": (-8.37, 8.37),  # m/s3, of the speed
    "lon_jerk": (-4.13, 4.13),  # m/s3
    "yaw_rate": (-0.95, 0.95),  # rad/s
    "yaw_accel": (-1.93, 1.93),  # rad/s2
}
SEAM = 3  # poses of history before the first waypoint: enough for a jerk at t0


class Comfort(NamedTuple):
    inside: dict[str, jax.Array]  # [...] share of steps within the bounds, a signal
    passes: jax.Array  # [...] bool: all steps of all signals
    score: jax.Array  # [...] mean over signals of `inside`, in [0, 1]
    excess: jax.Array  # [...] mean over signals and steps of how far beyond the bound, in units of the bound


def signals(xyz, rotation, history_xyz=None, history_rotation=None, dt: float = 0.1) -> dict[str, jax.Array]:
    """Poses [..., W, 3], [..., W, 3, 3]; history [..., H >= 3, 3], [..., H, 3, 3] ending at t0 (None: no seam)
    -> name of BOUNDS -> [..., n] with n shrinking by one a difference. A leading batch of the history may broadcast."""
    if history_xyz is not None:
        lead = xyz.shape[:-2]
        past = jnp.broadcast_to(history_xyz[..., -SEAM:, :], (*lead, SEAM, 3))
        past_yaw = jnp.broadcast_to(rotations.yaw_of(history_rotation)[..., -SEAM:], (*lead, SEAM))
        xyz = jnp.concatenate([past, xyz], -2)
        yaw = jnp.concatenate([past_yaw, rotations.yaw_of(rotation)], -1)
    else:
        yaw = rotations.yaw_of(rotation)
    difference = lambda series: jnp.diff(series, axis=-1) / dt
    turn = rotations.wrap(jnp.diff(yaw, axis=-1))
    middle = yaw[..., :-1] + turn / 2.0
    vx, vy = difference(xyz[..., 0]), difference(xyz[..., 1])
    forward = vx * jnp.cos(middle) + vy * jnp.sin(middle)
    sideways = vy * jnp.cos(middle) - vx * jnp.sin(middle)
    yaw_rate = turn / dt
    turning = forward * yaw_rate
    speed = jnp.sqrt(vx**2 + vy**2 + 1e-12)
    return {
        "lon_accel": difference(forward),
        "lat_accel": difference(sideways) + (turning[..., 1:] + turning[..., :-1]) / 2.0,
        "jerk": difference(difference(speed)),
        "lon_jerk": difference(difference(forward)),
        "yaw_rate": yaw_rate,
        "yaw_accel": difference(yaw_rate),
    }


def comfort(xyz, rotation, history_xyz=None, history_rotation=None, dt: float = 0.1) -> Comfort:
    """As `signals` -> Comfort, each [...]."""
    inside, excess, passes = {}, [], jnp.array(True)
    for name, series in signals(xyz, rotation, history_xyz, history_rotation, dt).items():
        low, high = BOUNDS[name]
        within = (series > low) & (series < high)
        inside[name] = jnp.mean(within, -1, dtype=jnp.float32)
        passes = passes & jnp.all(within, -1)  # not from the mean: a float32 mean of ones need not be 1
        beyond = jnp.maximum(series / high - 1.0, 0.0) + jnp.maximum(series / low - 1.0, 0.0)
        excess.append(jnp.mean(beyond, -1))
    shares = jnp.stack(list(inside.values()))
    return Comfort(inside, passes, jnp.mean(shares, 0), jnp.mean(jnp.stack(excess), 0))
