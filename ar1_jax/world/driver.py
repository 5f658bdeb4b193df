"""The driver: decides by rule from the state at t0 and drives the next 6.4 s in closed form.

One rule per channel; the same rules name the causes (labels.py). Longitudinal: a stop is the cubic speed profile from
(v0, a0) to (0, 0) over the distance at hand, so acceleration and jerk stay bounded and no loop over time is needed.
Lateral: quintic steps in s to an offset beside what blocks the lane, and back. W = 64 waypoints of 0.1 s."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ar1_jax.geometry import arcs, rotations
from ar1_jax.world import state
from ar1_jax.world.state import World

WAYPOINTS, DT = 64, 0.1
HISTORY = 16
CLEARANCE = 0.75  # m beside what is passed
ROOM_AHEAD = 3.5  # m kept before a person
ROOM_LEAD = 4.0  # m kept to a lead at standstill
ROOM_LINE = 1.0  # m kept before a stop line
RELEASE = 1.5  # s in which the acceleration of t0 dies out when speed is kept
FAR = 1e3


class Decision(NamedTuple):
    """What the driver reacts to, and where."""

    stop: jax.Array  # [] light demands a stop
    yields: jax.Array  # [] a person is on the road
    follows: jax.Array  # [] the lead brakes
    nudges: jax.Array  # [] +1 left, -1 right, 0 not
    distance: jax.Array  # [] m to drive until standstill, FAR if none is needed
    offset: jax.Array  # [] m left, to be held between
    begin: jax.Array  # [] s of the front of the plateau
    end: jax.Array  # [] and of its end


def decide(world: World) -> Decision:
    """World at t0 -> Decision. The nearest demand sets the stop."""
    agents, light = world.agents, world.light
    gap = state.gap(agents)
    nearest = lambda mask, value: jnp.min(jnp.where(mask, value, FAR))
    stop = (light.state == state.RED) | (light.state == state.YELLOW)
    on_road, braking, blocking = (
        state.is_on_road(agents),
        state.is_braking_lead(agents),
        state.is_blocking(agents),
    )
    lead_room = gap + agents.speed**2 / (2.0 * jnp.maximum(-agents.accel, 0.1)) - ROOM_LEAD
    distance = jnp.minimum(nearest(on_road, gap - ROOM_AHEAD), nearest(braking, lead_room))
    distance = jnp.minimum(distance, jnp.where(stop, light.stop - state.EGO_FRONT - ROOM_LINE, FAR))
    first = jnp.argmin(jnp.where(blocking, agents.s, FAR))
    side = -jnp.sign(agents.d[first]) * jnp.any(blocking)
    near_side = jnp.abs(agents.d[first]) - agents.size[first, 1] / 2.0
    offset = side * jnp.maximum(CLEARANCE + state.EGO_WIDTH / 2.0 - near_side, 0.0)
    near, far = agents.s[first] - agents.size[first, 0] / 2.0, agents.s[first] + agents.size[first, 0] / 2.0
    return Decision(
        stop=stop,
        yields=jnp.any(on_road),
        follows=jnp.any(braking),
        nudges=side,
        distance=distance,
        offset=offset,
        begin=near - state.EGO_FRONT - 1.0,
        end=far + state.EGO_REAR + 1.0,
    )


def stop_profile(speed, accel, distance, time):
    """Metres driven [N] at times [N] when the speed falls to 0 over `distance` along the cubic with both end
    accelerations met: v = v0 (1 - 3u^2 + 2u^3) + a0 T (u - 2u^2 + u^3), u = t/T; its integral over T is the distance,
    which gives T. Peak deceleration 0.75 v0^2 / distance and jerk 1.5 v0^3 / distance^2 where a0 = 0."""
    root = jnp.sqrt(jnp.maximum(speed**2 / 4.0 + accel * distance / 3.0, 1e-6))
    duration = 2.0 * distance / (speed / 2.0 + root)
    u = jnp.clip(time / duration, 0.0, 1.0)
    held = u - u**3 + u**4 / 2.0
    extra = u**2 / 2.0 - 2.0 * u**3 / 3.0 + u**4 / 4.0
    return speed * duration * held + accel * duration**2 * extra


def keep_profile(speed, accel, time):
    """Metres driven [N] when the acceleration of t0 falls linearly to 0 within RELEASE and the speed then stays."""
    t = jnp.minimum(time, RELEASE)
    released = speed * t + accel * (t**2 / 2.0 - t**3 / (6.0 * RELEASE))
    return released + (speed + accel * RELEASE / 2.0) * jnp.maximum(time - RELEASE, 0.0)


def _step(u):
    """Quintic 0 -> 1 with zero first and second derivatives at both ends; and its derivative."""
    u = jnp.clip(u, 0.0, 1.0)
    return u**3 * (10.0 - 15.0 * u + 6.0 * u**2), 30.0 * u**2 * (1.0 - u) ** 2


def swing(decision: Decision, speed, s):
    """Offset d [N] and slope dd/ds [N] at s [N]: out until `begin`, held, back after `end`."""
    ramp = jnp.maximum(jnp.minimum(speed * 3.0, decision.begin), 1.0)
    out, out_slope = _step((s - decision.begin + ramp) / ramp)
    back, back_slope = _step((s - decision.end) / ramp)
    return decision.offset * (out - back), decision.offset * (out_slope - back_slope) / ramp


def future(world: World, decision: Decision, time):
    """Poses of the ego at times [N] s -> xyz [N, 3], rotation [N, 3, 3], in the ego frame at t0."""
    ego = world.ego
    s = jnp.where(decision.distance < FAR / 2, stop_profile(ego.speed, ego.accel, decision.distance, time),
                  keep_profile(ego.speed, ego.accel, time))  # fmt: skip
    d, slope = swing(decision, ego.speed, s)
    return _poses(s, d, slope, world.road.curvature)


def history(world: World, time):
    """Poses at times [N] <= 0: constant acceleration, a slight sideways wander that has died at t0. The same for
    every family: it reads road and ego alone."""
    ego = world.ego
    s = ego.speed * time + ego.accel * time**2 / 2.0
    d = ego.wander * time**2 / 2.0
    slope = ego.wander * time / jnp.maximum(ego.speed + ego.accel * time, 0.1)
    return _poses(s, d, slope, world.road.curvature)


def _poses(s, d, slope, curvature):
    x, y, road_heading = arcs.to_cartesian(s, d, curvature)
    yaw = road_heading + jnp.arctan2(slope, 1.0 - curvature * d)
    return jnp.stack([x, y, jnp.zeros_like(x)], -1), rotations.from_yaw(yaw)


def future_times():
    """[64] s: 0.1 ... 6.4."""
    return jnp.arange(1, WAYPOINTS + 1, dtype=jnp.float32) * DT


def history_times():
    """[16] s: -1.5 ... 0."""
    return jnp.arange(1 - HISTORY, 1, dtype=jnp.float32) * DT
