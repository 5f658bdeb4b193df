"""Decision and cause of a scene, naming only what the policy's pictures show.

The driver's predicates say what is there; the renderer says what can be seen. A demand that no picture shows gives the
neutral label. Indices are those of text/coc.py. M agents; one scene, vmapped."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ar1_jax.text import coc
from ar1_jax.world import boxes, state
from ar1_jax.world.driver import Decision
from ar1_jax.world.state import World

FARTHEST = float(coc.DISTANCES[-1])  # m: what is farther is not named
MIN_PIXELS = 4  # of a body, over all cameras and frames, before it counts as seen
MIN_LAMP_PIXELS = 2  # of a shining lamp
_NEUTRAL = (coc.LONGITUDINAL.index("set_speed"), coc.LATERAL.index("lane_keeping"))
_URGENCY = ("red_light", "yellow_light", "pedestrian_on_road", "lead_braking", "stopped_vehicle", "lead_moving",
            "green_light", "pedestrian_aside", "parked_vehicle")  # fmt: skip


class Label(NamedTuple):
    longitudinal: jax.Array  # [] i32
    lateral: jax.Array  # [] i32
    cause: jax.Array  # [3] i32 kind, side, distance (coc.Cause.indices)
    shown: jax.Array  # [] bool: everything the driver reacts to can be seen


def label(world: World, decision: Decision, box_pixels, shining) -> Label:
    """box_pixels, shining [N] summed over cameras and frames (render.Pictures) -> Label."""
    agents = world.agents
    body = box_pixels[boxes.VEHICLE_BODY] + box_pixels[boxes.VEHICLE_CABIN]
    lamps = shining[boxes.VEHICLE_BODY] + shining[boxes.VEHICLE_CABIN]
    seen = jnp.concatenate([body, box_pixels[boxes.PERSON]]) >= MIN_PIXELS
    lit = jnp.concatenate([lamps, jnp.zeros_like(box_pixels[boxes.PERSON])]) >= MIN_LAMP_PIXELS
    light_seen = shining[boxes.LIGHT] >= MIN_LAMP_PIXELS
    braking = state.is_braking_lead(agents)
    near = seen & (state.gap(agents) <= FARTHEST)
    stop = decision.stop & light_seen
    yields = jnp.any(state.is_on_road(agents) & near)
    follows = jnp.any(braking & near & lit)
    nudges = jnp.where(jnp.any(state.is_blocking(agents) & near), decision.nudges, 0.0)
    name = lambda names, value: jnp.int32(names.index(value))
    longitudinal = jnp.where(stop, name(coc.LONGITUDINAL, "stop"), jnp.where(
        yields, name(coc.LONGITUDINAL, "yield"), jnp.where(
            follows, name(coc.LONGITUDINAL, "follow_lead"), _NEUTRAL[0])))  # fmt: skip
    lateral = jnp.where(nudges > 0, name(coc.LATERAL, "nudge_out_left"), jnp.where(
        nudges < 0, name(coc.LATERAL, "nudge_out_right"), _NEUTRAL[1]))  # fmt: skip
    shown = ((stop == decision.stop) & (yields == decision.yields) & (follows == decision.follows)
             & (nudges == decision.nudges))  # fmt: skip
    return Label(longitudinal, lateral, _cause(world, near, lit, light_seen), shown)


def _cause(world: World, near, lit, light_seen):
    """The most urgent of what is seen, the nearest of its kind; "clear" if nothing is."""
    agents, light = world.agents, world.light
    gap = state.gap(agents)
    person, vehicle = agents.kind == state.PERSON, agents.kind == state.VEHICLE
    ahead = state.is_ahead(agents) & near
    lead, braking, blocking = state.is_lead(agents), state.is_braking_lead(agents), state.is_blocking(agents)
    parked = vehicle & (agents.speed < state.STANDSTILL) & (jnp.abs(agents.d) < state.KERB) & ~blocking
    on_road = state.is_on_road(agents)
    rules = {
        "pedestrian_on_road": on_road,
        "lead_braking": braking & lit,
        "stopped_vehicle": blocking,
        "lead_moving": lead & ~braking,
        "pedestrian_aside": person & ~on_road,
        "parked_vehicle": parked,
    }
    kind = jnp.full(agents.kind.shape, -1)
    for name, holds in rules.items():
        kind = jnp.where(ahead & holds, _URGENCY.index(name), kind)
    lamp = jnp.asarray([-1] + [_URGENCY.index(f"{colour}_light") for colour in ("red", "yellow", "green")])
    lamp_gap = light.stop + boxes.BEYOND_LINE - state.EGO_FRONT
    lamp = jnp.where(light_seen & (lamp_gap > 0.0), lamp[light.state], -1)
    urgency, distance = jnp.append(kind, lamp), jnp.append(gap, lamp_gap)
    first = jnp.argmin(jnp.where(urgency >= 0, urgency * 1e3 + distance, 1e6))
    found = jnp.any(urgency >= 0)
    of_urgency = jnp.asarray([coc.CAUSES.index(name) for name in _URGENCY])
    has_side = jnp.asarray([coc.has_side(name) for name in _URGENCY])
    which = jnp.maximum(urgency[first], 0)
    side = jnp.where(jnp.append(agents.d, 0.0)[first] > 0.0, 0, 1)
    bucket = jnp.searchsorted(jnp.asarray(coc.DISTANCES, jnp.float32), distance[first])
    bucket = jnp.minimum(bucket, len(coc.DISTANCES) - 1)
    cause = jnp.stack([of_urgency[which], jnp.where(has_side[which], side, -1), bucket])
    return jnp.where(found, cause, jnp.asarray([coc.CAUSES.index("clear"), -1, -1])).astype(jnp.int32)
