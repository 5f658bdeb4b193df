"""Trajectory quality in [-1, 1]: near to what the driver did, touching nothing, on the road, comfortable.

The paper: l_L2 |x - x_driver|^2 + l_coll [collision] + l_jerk J(x), with values unpublished. Here each term
is bounded and smooth where it can be: a half-life form of the ADE in place of a gate, and comfort as a graded
penalty. Letters: B scenes, G completions, W waypoints 0.1 s apart. Units m, s, rad.
"""

import jax.numpy as jnp

from ar1_jax.rl import outcomes
from ar1_jax.world import state

BOUNDS = (-1.0, 1.0)
ADE_SCALE = 2.0  # m: the ADE at which nearness is one half
COLLISION, OFF_ROAD, DISCOMFORT = 0.5, 0.25, 0.25  # largest penalties; their sum is the lower bound
# Comfort bounds (nuPlan's): magnitudes in m/s^2, m/s^3, rad/s, rad/s^2.
COMFORT_BOUNDS = {
    "acceleration": 4.05,
    "lateral": 4.89,
    "jerk": 8.37,
    "yaw_rate": 0.95,
    "yaw_acceleration": 1.93,
}
EGO_LENGTH, EGO_WIDTH = state.EGO_LENGTH, state.EGO_WIDTH
EGO_CENTRE = (
    state.EGO_FRONT - state.EGO_REAR
) / 2  # m from the rear axle, the origin, to the middle of the box


def displacement(xyz, future_xyz):
    """[B, G, W, 3], [B, W, 3] -> [B, G] m: mean over waypoints of the distance in the plane."""
    return jnp.mean(jnp.linalg.norm(xyz[..., :2] - future_xyz[:, None, :, :2], axis=-1), axis=-1)


def comfort_signals(xyz, rot, initial_speed):
    """xyz [..., W, 3], rot [..., W, 3, 3], initial_speed [...] -> {name: [..., n]} physical signals.

    Differences start at the measured state at t0, so a jump into the first waypoint counts; a series gets
    shorter with each difference, nothing is repeated at its end. The speed of an interval stands at its
    middle, so that constant acceleration has no jerk anywhere. Lateral acceleration is v times yaw rate, not
    a difference of body-frame speeds.
    """
    dt = outcomes.DT
    start = jnp.zeros_like(xyz[..., :1, :2])
    steps = jnp.diff(jnp.concatenate([start, xyz[..., :2]], axis=-2), axis=-2)
    middle = jnp.linalg.norm(steps, axis=-1) / dt
    # From t0 to the first middle is half a step; afterwards whole ones.
    first = (middle[..., :1] - initial_speed[..., None]) / (0.5 * dt)
    acceleration = jnp.concatenate([first, jnp.diff(middle, axis=-1) / dt], axis=-1)
    gaps = jnp.full(acceleration.shape[-1] - 1, dt).at[0].set(0.75 * dt)
    heading = outcomes.headings(rot)
    heading = jnp.concatenate([jnp.zeros_like(heading[..., :1]), heading], axis=-1)
    yaw_rate = jnp.diff(heading, axis=-1) / dt
    return {
        "acceleration": acceleration,
        "lateral": middle * yaw_rate,
        "jerk": jnp.diff(acceleration, axis=-1) / gaps,
        "yaw_rate": yaw_rate,
        "yaw_acceleration": jnp.diff(yaw_rate, axis=-1) / dt,
    }


def discomfort(xyz, rot, initial_speed):
    """-> [...] in [0, 1): 0 when every signal stays inside its bound, growing with the mean excess over all
    steps."""
    signals = comfort_signals(xyz, rot, initial_speed)
    excess = [
        jnp.mean(jnp.maximum(jnp.abs(signals[name]) / bound - 1.0, 0.0), axis=-1)
        for name, bound in COMFORT_BOUNDS.items()
    ]
    return 1.0 - jnp.exp(-sum(excess))


def collides(xyz, rot, agents):
    """xyz [B, G, W, 3], rot, agents [B, M, W, 7] -> bool [B, G]: the ego's box meets a valid agent's box at
    any time.

    Separating axes of the two rectangles, at every waypoint.
    """
    yaw = outcomes.headings(rot)[:, :, None]  # [B, G, 1, W]
    centre_x = xyz[:, :, None, :, 0] + EGO_CENTRE * jnp.cos(yaw)
    centre_y = xyz[:, :, None, :, 1] + EGO_CENTRE * jnp.sin(yaw)
    x, y, other, length, width, valid = (agents[:, None, ..., n] for n in range(6))
    apart = jnp.zeros(jnp.broadcast_shapes(yaw.shape, x.shape), bool)
    for axis in (yaw, yaw + jnp.pi / 2, other, other + jnp.pi / 2):
        gap = jnp.abs((x - centre_x) * jnp.cos(axis) + (y - centre_y) * jnp.sin(axis))
        apart |= gap > _reach(EGO_LENGTH, EGO_WIDTH, axis - yaw) + _reach(length, width, axis - other)
    return jnp.any(~apart & (valid > 0.5), axis=(-2, -1))


def _reach(length, width, angle):
    """Half the extent of a rectangle along an axis at `angle` to its length."""
    return 0.5 * (length * jnp.abs(jnp.cos(angle)) + width * jnp.abs(jnp.sin(angle)))


def off_road(xyz, truth):
    """-> float32 [B, G]: share of waypoints where the ego's middle line is nearer to the edge than half its
    width."""
    offset = outcomes.lane_offsets(xyz, truth.curvature)
    left, right = (truth.edges[:, None, None, n] for n in (0, 1))
    outside = (offset > left - EGO_WIDTH / 2) | (offset < -right + EGO_WIDTH / 2)
    return jnp.mean(outside.astype(jnp.float32), axis=-1)


def quality(ade, collision, off, discomfort_):
    """Four [B, G] (m, bool, share, [0, 1)) -> [B, G] in [-1, 1], falling in each of them."""
    near = 1.0 / (1.0 + ade / ADE_SCALE)
    return near - COLLISION * collision - OFF_ROAD * off - DISCOMFORT * discomfort_


def parts(outcome, truth):
    """-> {ade, collision, off_road, discomfort}: float32 [B, G] each, also what the log shows."""
    initial = jnp.broadcast_to(truth.speed[:, None], outcome.valid.shape)
    return {
        "ade": displacement(outcome.xyz, truth.future_xyz),
        "collision": collides(outcome.xyz, outcome.rot, truth.agents).astype(jnp.float32),
        "off_road": off_road(outcome.xyz, truth),
        "discomfort": discomfort(outcome.xyz, outcome.rot, initial),
    }


def reward(outcome, truth):
    """outcomes.Outcome, outcomes.Truth -> float32 [B, G] in BOUNDS."""
    values = parts(outcome, truth)
    return quality(values["ade"], values["collision"], values["off_road"], values["discomfort"])
