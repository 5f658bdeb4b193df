"""What a completion says and does, and what was right: the arrays every reward reads.

B scenes, G completions of a scene, W waypoints 0.1 s apart, M agents. Ego frame at t0, metres, x forward, y
left. Decisions are indices of the closed sets of text.coc, -1 where a channel could not be parsed. A cause is
a row (kind, side, distance bucket) of text.coc indices, -1 where nothing was said (in the truth: where none
applies).
"""

import flax.struct
import jax
import jax.numpy as jnp

DT = 0.1  # seconds between waypoints


@flax.struct.dataclass
class Outcome:
    """One row a completion. valid bool [B, G]: the ids follow the grammar to their end; where False the rest
    is void.

    longitudinal, lateral int32 [B, G]; cause int32 [B, G, 3]; xyz float32 [B, G, W, 3]; rot float32 [B, G, W,
    3, 3].
    """

    valid: jax.Array
    longitudinal: jax.Array
    lateral: jax.Array
    cause: jax.Array
    xyz: jax.Array
    rot: jax.Array


@flax.struct.dataclass
class Truth:
    """One row a scene. speed float32 [B] m/s at t0; decisions int32 [B]; cause int32 [B, 3]; future_xyz [B,
    W, 3]; agents float32 [B, M, W, 7] (x, y, yaw, length, width, valid, kind); lane float32 [B, P, 3]: the
    centre of the ego's lane as points (x, y, yaw), from behind the ego to beyond the horizon; half_width
    float32 [B] of the drivable surface around it, to the (left, right) [B, 2]."""

    speed: jax.Array
    longitudinal: jax.Array
    lateral: jax.Array
    cause: jax.Array
    future_xyz: jax.Array
    agents: jax.Array
    lane: jax.Array
    half_width: jax.Array


def speeds(xyz, initial_speed):
    """xyz [..., W, 3], initial_speed [...] m/s -> [..., W + 1] m/s, at t0 and at each waypoint.

    The mean speed of an interval, (distance / dt), is taken for its middle; those at the waypoints are means
    of the two neighbours, extrapolated by half a step at the end. The measured speed at t0 comes first, so
    that a jump between the past and the plan shows.
    """
    start = jnp.zeros_like(xyz[..., :1, :2])
    steps = jnp.diff(jnp.concatenate([start, xyz[..., :2]], axis=-2), axis=-2)
    middle = jnp.linalg.norm(steps, axis=-1) / DT
    last = middle[..., -1:] + 0.5 * (middle[..., -1:] - middle[..., -2:-1])
    inner = 0.5 * (middle[..., 1:] + middle[..., :-1])
    return jnp.concatenate([initial_speed[..., None], inner, last], axis=-1)


def lane_offsets(xyz, lane):
    """xyz [B, G, W, 3], lane [B, P, 3] (x, y, yaw) -> [B, G, W] m left of the lane's centre.

    Measured along the normal of the nearest lane point.
    """
    gap = xyz[..., None, :2] - lane[:, None, None, :, :2]
    nearest = jnp.argmin(jnp.sum(gap**2, axis=-1), axis=-1)
    chosen = jnp.take_along_axis(gap, nearest[..., None, None], axis=-2)[..., 0, :]
    yaw = jnp.take_along_axis(lane[:, None, :, 2], nearest.reshape(*nearest.shape[:1], 1, -1), axis=-1)
    yaw = yaw.reshape(nearest.shape)
    return chosen[..., 1] * jnp.cos(yaw) - chosen[..., 0] * jnp.sin(yaw)


def headings(rot):
    """rot [..., W, 3, 3] -> [..., W] rad, counter-clockwise from the ego's heading at t0, unwrapped along
    W."""
    return jnp.unwrap(jnp.arctan2(rot[..., 1, 0], rot[..., 0, 0]), axis=-1)
