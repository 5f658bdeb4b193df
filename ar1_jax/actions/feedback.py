"""Bins chosen with feedback: the decoded state, not each control, stays nearest to the motion.

Rounding each control for itself adds up: half a bin of curvature held for 6.4 s is metres sideways. Here one control
is chosen after the other; n bins, A controls of one motion, ... leading axes only in `track`. Metres, rad, m/s.
"""

import jax
import jax.numpy as jnp

from ar1_jax.actions import bins, unicycle
from ar1_jax.actions import config as configs

HORIZON = 2.0  # s ahead of a control's end over which a remaining error is counted
# Pull to the fitted control, per (m/s²)² and per (1/m)²: keeps ids quiet, and says what curvature means at rest.
QUIET = 1.0, 1e3


def _drift(offset, rate):
    """Integral of (offset + rate t)² over the horizon: what an error left at a control's end will cost."""
    return offset**2 * HORIZON + offset * rate * HORIZON**2 + rate**2 * HORIZON**3 / 3


def _advance(state, accel, curvature, one: configs.UnicycleConfig):
    """(xy [2], heading, speed) after one control; accel, curvature [n] -> states with leading [n]."""
    xy, theta, speed = state
    control = jnp.stack(jnp.broadcast_arrays(accel, curvature), axis=-1)[..., None, :]
    step, turn, after = unicycle.integrate(control, jnp.broadcast_to(speed, control.shape[:-2]), one)
    forward, left = step[..., -1, 0], step[..., -1, 1]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    moved = jnp.stack([cos * forward - sin * left, sin * forward + cos * left], axis=-1)
    return xy + moved, theta + turn[..., -1], after[..., -1]


def _errors(state, goal):
    """Future cost of the error along and across the goal's heading; a goal is (xy [2], heading, speed)."""
    (xy, theta, speed), (goal_xy, heading, goal_speed) = state, goal
    ex, ey = xy[..., 0] - goal_xy[0], xy[..., 1] - goal_xy[1]
    cos, sin = jnp.cos(heading), jnp.sin(heading)
    along, across = cos * ex + sin * ey, cos * ey - sin * ex
    return _drift(along, speed - goal_speed), _drift(across, goal_speed * jnp.sin(theta - heading))


def _track(ends, controls, speeds, headings, c: configs.FutureCodecConfig):
    """One motion: ends [A, 2], controls [A, 2], speeds and headings [A+1] -> bins int32 [A, 2]."""
    one = c.action_space.replace(n_waypoints=1)
    index = jnp.arange(c.num_bins)
    accels, curvatures = unicycle.denormalise(
        bins.dequantise(jnp.stack([index] * 2, -1), c), c.action_space
    ).T

    def choose(state, step):
        (fitted_accel, fitted_curvature), *goal = step
        along, _ = _errors(_advance(state, accels, fitted_curvature, one), goal)
        accel = jnp.argmin(along + QUIET[0] * (accels - fitted_accel) ** 2)
        _, across = _errors(_advance(state, accels[accel], curvatures, one), goal)
        curvature = jnp.argmin(across + QUIET[1] * (curvatures - fitted_curvature) ** 2)
        return _advance(state, accels[accel], curvatures[curvature], one), jnp.stack([accel, curvature])

    start = (jnp.zeros(2), jnp.zeros(()), speeds[0])
    _, chosen = jax.lax.scan(choose, start, (controls, ends, headings[1:], speeds[1:]))
    return chosen.astype(jnp.int32)


@jax.jit
def track(history_xyz, history_rot, future_xyz, future_rot, c: configs.FutureCodecConfig) -> jax.Array:
    """A motion (as unicycle_encode, float32) -> bins int32 [..., A, 2], acceleration and curvature.

    For each control first the acceleration, then the curvature, is the bin after which the decoded state drifts least
    from the motion, with a slight pull to the fitted control.
    """
    hold = c.action_space.hold
    controls, speeds, headings = unicycle.fit(
        history_xyz, history_rot, future_xyz, future_rot, c.action_space
    )
    ends = future_xyz[..., hold - 1 : hold * c.action_space.n_waypoints : hold, :2]
    signature = "(a,d),(a,d),(s),(s)->(a,d)"
    return jnp.vectorize(lambda *motion: _track(*motion, c), signature=signature)(
        ends, controls, speeds, headings
    )
