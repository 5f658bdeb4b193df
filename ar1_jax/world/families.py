"""Scenario families as data: a name, a weight, a sampler. Adding a family is adding an entry to FAMILIES.

A sampler takes (key, world) and returns the world with its scene set up; `world` already holds road, ego and the
distractors that every family has. The ego's state is drawn before and may be read, never changed: nothing in the
history may tell the family. Every family draws its negative too, the same objects in a state that asks for nothing
(green light, person on the pavement, lead keeping pace, vehicle parked aside). Weights and shares are chosen so that
the commonest joint decision stays below 45 % and each other above 8 %. Ranges in m, s, m/s."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.world import state
from ar1_jax.world.state import World

CAR = (4.5, 1.85, 1.5)  # length, width, height
PERSON = (0.4, 0.7, 1.8)
CAR_COLOURS = np.array(
    [
        (0.78, 0.79, 0.80),
        (0.12, 0.13, 0.15),
        (0.45, 0.47, 0.50),
        (0.16, 0.25, 0.50),
        (0.50, 0.08, 0.07),
        (0.85, 0.84, 0.80),
        (0.10, 0.30, 0.25),
        (0.70, 0.60, 0.35),
    ],
    np.float32,
)
SHIRTS = np.array(
    [(0.85, 0.45, 0.1), (0.15, 0.3, 0.75), (0.85, 0.8, 0.75), (0.55, 0.1, 0.4), (0.1, 0.5, 0.5)], np.float32
)


class Family(NamedTuple):
    weight: float
    sample: Callable[[jax.Array, World], World]


def stopping_distance(speed):
    """Shortest m in which the driver's profile stops below 3.3 m/s2 and 3.2 m/s3 (driver.stop_profile), >= 12."""
    return jnp.maximum(jnp.maximum(0.228 * speed**2, 0.7 * speed**1.5), 12.0)


def _between(draw, low, high):
    return low + draw * (high - low)


def _stop_room(draw, speed, longest):
    """A distance from the front bumper in which stopping is comfortable, at most `longest` where that allows."""
    shortest = stopping_distance(speed)
    return _between(draw, shortest, jnp.maximum(jnp.minimum(shortest + 24.0, longest), shortest))


def _pick(draw, table):
    return jnp.asarray(table)[(draw * len(table)).astype(jnp.int32)]


_AT_REST = {"heading": 0.0, "speed": 0.0, "accel": 0.0, "cross": 0.0, "brake": False}


def _car(agents, slot, draws, **fields):
    """A car in a slot, at rest unless `fields` say else, its size within 8 % and its colour drawn from `draws` [2]."""
    size = jnp.asarray(CAR, jnp.float32) * _between(draws[0], 0.94, 1.08)
    looks = {"kind": state.VEHICLE, "size": size, "colour": _pick(draws[1], CAR_COLOURS)}
    return state.put(agents, slot, **{**_AT_REST, **looks, **fields})


def _person(agents, slot, draws, **fields):
    """A person in a slot, as _car."""
    size = jnp.asarray(PERSON, jnp.float32) * _between(draws[0], 0.94, 1.06)
    looks = {"kind": state.PERSON, "size": size, "colour": _pick(draws[1], SHIRTS)}
    return state.put(agents, slot, **{**_AT_REST, **looks, **fields})


def _side(draw):
    return jnp.where(draw < 0.5, 1.0, -1.0)


def free(key, world):
    """Nothing that asks for a reaction: only what every scene may have."""
    return world


def lead(key, world):
    """A vehicle ahead in the lane at the ego's pace; in 56 % it brakes, lamps lit, to a standstill."""
    draws = jax.random.uniform(key, (6,))
    speed = world.ego.speed
    brakes = draws[0] < 0.56
    gap = jnp.minimum(5.0 + speed * _between(draws[1], 1.0, 2.2), 42.0)
    agents = _car(world.agents, 0, draws[4:], s=state.EGO_FRONT + gap + CAR[0] / 2, d=_between(draws[2], -0.25, 0.25),
                  speed=speed + jnp.where(brakes, 0.0, _between(draws[3], 0.0, 1.0)), brake=brakes,
                  accel=jnp.where(brakes, -2.2, 0.0))  # fmt: skip
    return world.replace(agents=agents)


def light(key, world):
    """A traffic light over the lane: red 43 %, yellow 15 %, green 42 %."""
    draws = jax.random.uniform(key, (3,))
    which = jnp.where(draws[0] < 0.43, state.RED, jnp.where(draws[0] < 0.58, state.YELLOW, state.GREEN))
    stop = state.EGO_FRONT + 1.0 + _stop_room(draws[1], world.ego.speed, 50.0)
    lamp = state.Light(state=which, stop=stop, d=_between(draws[2], -1.5, 0.5))
    return world.replace(light=lamp, agents=_clear_junction(world.agents, stop))


def _clear_junction(agents, stop):
    """Nobody stands in the crossing road: who would is taken away."""
    inside = (agents.s > stop - 4.0) & (agents.s < stop + 14.0)
    return agents.replace(valid=agents.valid & ~inside)


def pedestrian(key, world):
    """A person: 60 % on the road, walking across from the side on which they are; else standing on the pavement."""
    draws = jax.random.uniform(key, (7,))
    crosses, side = draws[0] < 0.6, _side(draws[1])
    s = state.EGO_FRONT + 3.5 + _stop_room(draws[2], world.ego.speed, 44.0)
    d = side * jnp.where(crosses, _between(draws[3], 0.4, 3.8), _between(draws[3], 6.2, 7.4))
    walk = jnp.where(crosses, -side * _between(draws[4], 1.1, 1.5), 0.0)
    agents = _person(world.agents, 4, draws[5:], s=s, d=d, cross=walk)
    vehicle = jnp.arange(state.AGENTS) < state.VEHICLE_SLOTS
    in_the_way = vehicle & crosses & (jnp.abs(agents.s - s) < 40.0)  # may hide or run over who crosses
    return world.replace(agents=agents.replace(valid=agents.valid & ~in_the_way))


def nudge(key, world):
    """A vehicle standing at one side: 88 % partly in the lane, so that the ego must straddle, else parked clear."""
    draws = jax.random.uniform(key, (7,))
    blocks, side = draws[0] < 0.88, _side(draws[1])
    s = state.EGO_FRONT + 1.0 + CAR[0] / 2 + world.ego.speed * _between(draws[2], 2.4, 3.4) + 2.0
    near_side = jnp.where(blocks, _between(draws[3], 0.15, 0.7), _between(draws[3], 2.6, 3.2))
    agents = _car(world.agents, 0, draws[5:], s=s, d=side * (near_side + CAR[1] / 2 + 0.05),
                  heading=_between(draws[4], -0.05, 0.05))  # fmt: skip
    beside = (jnp.abs(agents.s - s) < 45.0) | (agents.speed > state.STANDSTILL)
    others = (jnp.arange(state.AGENTS) > 0) & (agents.kind == state.VEHICLE)
    agents = agents.replace(
        valid=agents.valid & ~(others & beside)
    )  # room to swing out, nothing that hides it
    return world.replace(agents=agents)


FAMILIES: dict[str, Family] = {
    "free": Family(0.13, free),
    "lead": Family(0.20, lead),
    "light": Family(0.23, light),
    "pedestrian": Family(0.20, pedestrian),
    "nudge": Family(0.24, nudge),
}


def names() -> tuple[str, ...]:
    return tuple(FAMILIES)


def weights(only=None) -> np.ndarray:
    """f32 [number of families]: the registry's weights, 0 for those not in `only` (names; None: all). ValueError."""
    only = names() if only is None else (only,) if isinstance(only, str) else tuple(only)
    unknown = sorted(set(only) - set(names()))
    if unknown or not only:
        raise ValueError(f"scenario families {unknown or 'none'}: known are {', '.join(names())}")
    return np.array([entry.weight if name in only else 0.0 for name, entry in FAMILIES.items()], np.float32)


def sample(key, weight):
    """key, weight f32 [number of families] (`weights`) -> (World, family [] i32 index into FAMILIES)."""
    ego_key, base_key, choice_key, family_key = jax.random.split(key, 4)
    family = jax.random.categorical(choice_key, jnp.log(weight)).astype(jnp.int32)
    world = _base(ego_key, base_key)
    branches = [entry.sample for entry in FAMILIES.values()]
    return jax.lax.switch(family, branches, family_key, world), family


def _base(ego_key, key):
    """What all families share: ego and road from one key alone, then distractors, scenery and light."""
    draws = jax.random.uniform(ego_key, (4,))
    ego = state.Ego(speed=_between(draws[0], 5.0, 14.5), accel=_between(draws[1], -0.3, 0.3),
                    wander=_between(draws[2], -0.08, 0.08))  # fmt: skip
    road = state.Road(curvature=_between(draws[3], -0.008, 0.008))
    agent_key, light_key, prop_key, look_key = jax.random.split(key, 4)
    far = jax.random.uniform(light_key, (3,))
    lamp = state.Light(state=jnp.where(far[0] < 0.12, state.GREEN, state.DARK), stop=_between(far[1], 16.0, 54.0),
                       d=_between(far[2], -1.5, 0.5))  # fmt: skip
    agents = _distractors(agent_key)
    junction = _clear_junction(agents, lamp.stop)
    agents = agents.replace(valid=jnp.where(lamp.state > 0, junction.valid, agents.valid))
    return World(road, ego, agents, lamp, _scenery(prop_key), _look(look_key))


def _distractors(key):
    """Parked, oncoming and passing vehicles beside the lane (slots 1-3), people on the pavement (slots 5-7)."""
    many, one = (state.AGENTS,), jnp.zeros(state.AGENTS)
    agents = state.Agents(kind=jnp.zeros(many, jnp.int32), s=one, d=one, heading=one, speed=one, accel=one, cross=one,
                          size=jnp.ones((*many, 3)), colour=jnp.ones((*many, 3)), brake=jnp.zeros(many, bool),
                          valid=jnp.zeros(many, bool))  # fmt: skip
    draws = jax.random.uniform(key, (state.AGENTS, 6))
    s_of = lambda slot, low, high: _between(draws[slot, 3], low, high)
    side = _side(draws[1, 0])
    parked = side * _between(draws[1, 4], 3.9, 4.5)
    agents = _car(agents, 1, draws[1, 1:], s=s_of(1, 10.0, 60.0), d=parked, valid=draws[1, 5] < 0.3)
    oncoming = {"d": 3.7, "heading": jnp.pi, "speed": _between(draws[2, 4], 6.0, 12.0)}
    agents = _car(
        agents, 2, draws[2, 1:], s=s_of(2, 15.0, 80.0), valid=(draws[2, 5] < 0.4) & (side < 0), **oncoming
    )
    passing = {"d": -3.75, "speed": 9.0, "brake": draws[3, 0] < 0.3}
    agents = _car(
        agents, 3, draws[3, 1:], s=s_of(3, 8.0, 40.0), valid=(draws[3, 5] < 0.25) & (side > 0), **passing
    )
    for slot in range(5, state.AGENTS):
        d = _side(draws[slot, 0]) * _between(draws[slot, 4], 6.2, 7.6)
        agents = _person(
            agents, slot, draws[slot, 1:], s=s_of(slot, 10.0, 60.0), d=d, valid=draws[slot, 5] < 0.17
        )
    return agents


def _scenery(key):
    """Six trees and three houses, on both sides in turn."""
    trees, houses = 6, 3
    draws = jax.random.uniform(key, (trees + houses, 6))
    draw = lambda column, low, high: _between(draws[:, column], low, high)
    is_house = jnp.arange(trees + houses) >= trees
    side = jnp.where(jnp.arange(trees + houses) % 2 == 0, 1.0, -1.0)
    either = lambda house, tree: jnp.where(is_house[:, None], jnp.stack(house, -1), jnp.stack(tree, -1))
    return state.Props(
        kind=is_house.astype(jnp.int32),
        s=draw(0, 6.0, 85.0),
        d=side * jnp.where(is_house, draw(1, 16.0, 24.0), draw(1, 9.8, 14.0)),
        yaw=draw(5, -0.1, 0.1),
        half=either(
            (draw(2, 4.0, 7.0), draw(3, 3.5, 5.0), draw(4, 2.6, 4.5)),
            (draw(2, 1.0, 1.9), draw(2, 1.0, 1.9), draw(3, 1.2, 2.2)),
        ),
        colour=either(
            (draw(5, 0.5, 0.85), draw(5, 0.42, 0.78), draw(1, 0.35, 0.7)),
            (draw(4, 0.1, 0.25), draw(5, 0.28, 0.42), draw(4, 0.1, 0.1)),
        ),
        bottom=jnp.where(is_house, 0.0, 1.6),
        valid=jnp.ones(trees + houses, bool),
    )


def _look(key):
    draws = jax.random.uniform(key, (5,))
    angle = draws[1] * 2.0 * jnp.pi
    grass = jnp.stack([_between(draws[3], 0.22, 0.4), _between(draws[3], 0.4, 0.46), draws[3] * 0.0 + 0.16])
    return state.Look(brightness=_between(draws[0], 0.7, 1.08), sun=jnp.stack([jnp.cos(angle), jnp.sin(angle)]),
                      haze=_between(draws[2], 0.001, 0.005), grass=grass, overcast=draws[4])  # fmt: skip
