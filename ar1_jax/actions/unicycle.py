"""Trajectory to controls and back, under unicycle dynamics (paper section 3.2.2, Eq. 5).

W = 64 waypoints at 0.1 s, A controls, h history rows (16, 10 Hz, the last is t0: origin, identity); ... any leading
axes. Metres, rad, m/s; controls are (acceleration m/s², curvature 1/m), actions the same normalised. Encoding is a
chain of regularised least squares (theta, speed, acceleration, curvature), each a banded system (banded.py), all in
float32. The start pose is taken to be the origin; nothing here turns a motion given in another frame.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ar1_jax.actions import banded
from ar1_jax.actions import config as configs

STANDING = 0.6  # m/s: below it the mended decoder does not turn the vehicle
HISTORY_DT = 0.1  # s


def yaw_of(rot: jax.Array) -> jax.Array:
    """Heading [...] of rotations [..., 3, 3]."""
    return jnp.arctan2(rot[..., 1, 0], rot[..., 0, 0])


def rotation_of(yaw: jax.Array) -> jax.Array:
    """Rotations [..., 3, 3] about z by yaw [...]."""
    c, s, zero = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros_like(yaw)
    rows = (c, -s, zero), (s, c, zero), (zero, zero, zero + 1)
    return jnp.stack([jnp.stack(r, axis=-1) for r in rows], axis=-2)


def unwrap(yaw: jax.Array) -> jax.Array:
    """Headings [..., n] made continuous: the first kept, wrapped differences added up."""
    steps = jnp.diff(yaw, axis=-1)
    steps = jnp.arctan2(jnp.sin(steps), jnp.cos(steps))
    return jnp.concatenate([yaw[..., :1], yaw[..., :1] + jnp.cumsum(steps, axis=-1)], axis=-1)


def _initial_speed(history_xyz, history_rot, c: configs.UnicycleConfig):
    step = c.dt / c.hold
    theta = unwrap(yaw_of(history_rot))
    u = jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=-1)  # [..., h, 2]
    rows = theta.shape[-1]
    smooth = c.v_lambda / step**6 * banded.difference_gram(rows, 3)
    bands, rhs = _trapezoid(u, 2 / step * jnp.diff(history_xyz[..., :2], axis=-2))
    return banded.solve(bands + smooth.astype("float32"), rhs, c.v_ridge)[..., -1]


def _trapezoid(u, b):
    """Normal equations of v_i u_i + v_{i+1} u_{i+1} = b_i: u [..., n, 2], b [..., n-1, 2] -> bands, rhs over n."""
    touched = jnp.full(u.shape[:-1], 2.0).at[..., jnp.array([0, -1])].set(1.0)
    between = jnp.sum(u[..., 1:, :] * u[..., :-1, :], axis=-1)
    pad = [(0, 0)] * (u.ndim - 2)
    between = jnp.pad(between, [*pad, (1, 0)])
    bands = jnp.stack([touched, between, *(jnp.zeros_like(touched),) * 2], axis=-1)
    both = jnp.pad(b, [*pad, (1, 0), (0, 0)]) + jnp.pad(b, [*pad, (0, 1), (0, 0)])
    return bands, jnp.sum(u * both, axis=-1)


def _drop_first(bands, rhs, first):
    """Eliminate the known unknown 0 (value `first` [...]) from bands [..., n, 4], rhs [..., n] -> over n-1."""
    pulls = jnp.stack([bands[..., k, k] for k in (1, 2, 3)], axis=-1) * first[..., None]
    rhs = rhs[..., 1:].at[..., :3].add(-pulls)
    rest = bands[..., 1:, :]
    for k in (1, 2, 3):  # what reached unknown 0 lies outside the matrix now
        rest = rest.at[..., k - 1, k].set(0.0)
    return rest, rhs


def _speeds(theta, positions, first, c: configs.UnicycleConfig):
    """Headings [..., n+1] and xy [..., n+1, 2], speed at 0 known [...] -> speeds [..., n+1]; n = A hold."""
    u = jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=-1)
    step = c.dt / c.hold
    bands, rhs = _trapezoid(u, 2 / step * jnp.diff(positions, axis=-2))
    bands = bands + (c.v_lambda / step**6 * banded.difference_gram(theta.shape[-1], 3)).astype("float32")
    rest = banded.solve(*_drop_first(bands, rhs, first), c.v_ridge)
    return jnp.concatenate([first[..., None], rest], axis=-1)


def _curvature(length, turn, c: configs.UnicycleConfig):
    """minimise sum (length k - turn)² + lambda |D2 k|² + ridge |k|² over k [..., A]: at rest only smoothness speaks."""
    bands = (c.kappa_lambda / c.dt**4 * banded.difference_gram(c.n_waypoints, 2)).astype("float32")
    bands = jnp.broadcast_to(bands, (*length.shape, 4)).at[..., 0].add(length * length)
    return banded.solve(bands, length * turn, c.kappa_ridge)


def fit(history_xyz, history_rot, future_xyz, future_rot, c: configs.UnicycleConfig):
    """A motion -> controls [..., A, 2] in m/s², 1/m, and the states they join: speed, heading [..., A+1].

    Headings and speeds are fitted at the poses' own rate and then read at the ends of the controls: fitted at
    0.4 s, speeds ring (a trapezoid rule does not see what alternates), and so would the accelerations.
    """
    n = c.hold * c.n_waypoints
    step = c.dt / c.hold
    yaw = unwrap(yaw_of(future_rot[..., :n, :, :]))
    theta = banded.smooth(yaw, banded.smoother(n + 1, 3, c.theta_lambda / step**6, c.theta_ridge, drop=1))
    theta = jnp.concatenate([jnp.zeros_like(theta[..., :1]), theta], axis=-1)
    positions = jnp.concatenate([history_xyz[..., -1:, :2], future_xyz[..., :n, :2]], axis=-2)
    speed = _speeds(theta, positions, _initial_speed(history_xyz, history_rot, c), c)
    theta, speed = theta[..., :: c.hold], speed[..., :: c.hold]
    smoother = banded.smoother(c.n_waypoints, 2, c.a_lambda / c.dt**4, c.a_ridge)
    accel = banded.smooth(jnp.diff(speed, axis=-1) / c.dt, smoother)
    length = c.dt * speed[..., :-1] + c.dt**2 / 2 * accel
    curvature = _curvature(length, jnp.diff(theta, axis=-1), c)
    return jnp.stack([accel, curvature], axis=-1), speed, theta


def integrate(controls, first, c: configs.UnicycleConfig):
    """Controls [..., A, 2] m/s², 1/m from the origin at speed `first` [...] -> xy [..., A hold, 2], heading, speed."""
    step = c.dt / c.hold
    accel, curvature = jnp.moveaxis(jnp.repeat(controls, c.hold, axis=-2), -1, 0)
    first = jnp.broadcast_to(first[..., None], (*accel.shape[:-1], 1))
    speed = jnp.concatenate([first, first + jnp.cumsum(accel * step, axis=-1)], axis=-1)
    if c.mended:
        slow = jnp.minimum(jnp.abs(speed[..., :-1]), jnp.abs(speed[..., 1:])) < STANDING
        curvature = jnp.where(slow, 0.0, jnp.clip(curvature, *c.curvature_bounds))
    turn = jnp.cumsum(curvature * speed[..., :-1] * step, axis=-1)
    turn = turn + jnp.cumsum(curvature * accel * (step**2 / 2), axis=-1)
    theta = jnp.concatenate([jnp.zeros_like(first), turn], axis=-1)
    velocity = speed[..., None] * jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=-1) * (step / 2)
    xy = jnp.cumsum(velocity[..., :-1, :], axis=-2) + jnp.cumsum(velocity[..., 1:, :], axis=-2)
    return xy, turn, speed[..., 1:]


@jax.jit
def _encode(history_xyz, history_rot, future_xyz, future_rot, c: configs.UnicycleConfig):
    return normalise(fit(history_xyz, history_rot, future_xyz, future_rot, c)[0], c)


@jax.jit
def _decode(actions, history_xyz, history_rot, c: configs.UnicycleConfig):
    first = _initial_speed(history_xyz, history_rot, c)
    xy, theta, _ = integrate(denormalise(actions, c), first, c)
    z = jnp.broadcast_to(history_xyz[..., -1:, 2:], (*xy.shape[:-1], 1))
    return jnp.concatenate([xy, z], axis=-1), rotation_of(theta)


def normalise(controls: jax.Array, c: configs.UnicycleConfig) -> jax.Array:
    """Controls [..., A, 2] in m/s², 1/m -> actions."""
    mean, std = jnp.array([c.accel_mean, c.curvature_mean]), jnp.array([c.accel_std, c.curvature_std])
    return (controls - mean) / std


def denormalise(actions: jax.Array, c: configs.UnicycleConfig) -> jax.Array:
    """Actions [..., A, 2] -> controls in m/s², 1/m."""
    mean, std = jnp.array([c.accel_mean, c.curvature_mean]), jnp.array([c.accel_std, c.curvature_std])
    return actions * std + mean


def controls_of(actions: Any, config: Any) -> jax.Array:
    """Actions [..., A, 2] -> physical controls (m/s², 1/m), without the mended form's clipping."""
    return denormalise(jnp.asarray(actions, jnp.float32), configs.UnicycleConfig.of(config))


def initial_speed(history_xyz: Any, history_rot: Any, config: Any) -> jax.Array:
    """Speed at t0, m/s, float32 [...], from a history [..., h, 3], [..., h, 3, 3] (negative when reversing)."""
    return jax.jit(_initial_speed)(*_floats(history_xyz, history_rot), configs.UnicycleConfig.of(config))


def unicycle_encode(
    history_xyz: Any, history_rot: Any, future_xyz: Any, future_rot: Any, config: Any
) -> jax.Array:
    """A motion (future [..., 64, 3], [..., 64, 3, 3], frame at t0) -> actions float32 [..., A, 2], normalised.

    Bounds are not applied (within_bounds tells). NaN in a motion gives NaN in its own row only.
    """
    arrays = _floats(history_xyz, history_rot, future_xyz, future_rot)
    return _encode(*arrays, configs.UnicycleConfig.of(config))


def unicycle_decode(
    actions: Any, history_xyz: Any, history_rot: Any, config: Any
) -> tuple[jax.Array, jax.Array]:
    """Actions [..., A, 2] -> xyz float32 [..., A hold, 3] m and rot [..., A hold, 3, 3], rotations about z.

    z stays that of the last history row. Mended: curvature clipped to its bounds, and 0 in a step where the speed
    before or after is below 0.6 m/s.
    """
    return _decode(*_floats(actions, history_xyz, history_rot), configs.UnicycleConfig.of(config))


def within_bounds(actions: Any, config: Any) -> jax.Array:
    """True [...] where all controls of actions [..., A, 2] lie within the space's bounds."""
    c = configs.UnicycleConfig.of(config)
    low, high = jnp.array([c.accel_bounds, c.curvature_bounds]).T
    controls = denormalise(jnp.asarray(actions, jnp.float32), c)
    return jnp.all((controls >= low) & (controls <= high), axis=(-2, -1))


def _floats(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)
