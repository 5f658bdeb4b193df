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
    """One row a scene. longitudinal, lateral int32 [B]; cause int32 [B, 3]; history_xyz float32 [B, 16, 3],
    history_rot float32 [B, 16, 3, 3], ending at t0; future_xyz float32 [B, W, 3], the driver's; agents float32
    [B, M, W, 7] (x, y, yaw, length, width, valid, kind); road float32 [B, 5] (world.api.ROAD_FIELDS)."""

    longitudinal: jax.Array
    lateral: jax.Array
    cause: jax.Array
    history_xyz: jax.Array
    history_rot: jax.Array
    future_xyz: jax.Array
    agents: jax.Array
    road: jax.Array


FIELDS = {
    "longitudinal": "longitudinal",
    "lateral": "lateral",
    "causes": "cause",
    "ego_history_xyz": "history_xyz",
    "ego_history_rot": "history_rot",
    "ego_future_xyz": "future_xyz",
    "agents": "agents",
    "road": "road",
}  # of world.api.make_batch -> of Truth


def truth(batch):
    """The Truth of a batch of world.api.make_batch (dict of arrays, FIELDS among them)."""
    return Truth(**{ours: jnp.asarray(batch[theirs]) for theirs, ours in FIELDS.items()})


def present_speed(history_xyz):
    """history_xyz [..., 16, 3] ending at the origin -> [...] m/s at t0, by the last two intervals."""
    middle = jnp.linalg.norm(jnp.diff(history_xyz[..., -3:, :2], axis=-2), axis=-1) / DT
    return jnp.maximum(1.5 * middle[..., 1] - 0.5 * middle[..., 0], 0.0)


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


def headings(rot):
    """rot [..., W, 3, 3] -> [..., W] rad, counter-clockwise from the ego's heading at t0, unwrapped along
    W."""
    return jnp.unwrap(jnp.arctan2(rot[..., 1, 0], rot[..., 0, 0]), axis=-1)
