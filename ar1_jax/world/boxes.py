"""The world at one instant as a fixed table of oriented boxes, with the class a policy should see in each.

N = 30 boxes: 4 vehicles x (body, cabin), 4 persons, light (housing, mast, arm), 9 of scenery, 6 trunks.
Boxes turn about z only. CELL_CLASSES are the decision-relevant classes, split as finely as the driver's rules."""

import flax.struct
import jax
import jax.numpy as jnp

from ar1_jax.geometry import arcs
from ar1_jax.world import motion, state
from ar1_jax.world.state import World

CELL_CLASSES = (
    "red_lamp",
    "yellow_lamp",
    "green_lamp",
    "brake_light",
    "person_on_road_left",
    "person_on_road_right",
    "person_aside",
    "lead_vehicle",
    "vehicle_aside",
    "blocking_vehicle_left",
    "blocking_vehicle_right",
)
CLASS = {name: index for index, name in enumerate(CELL_CLASSES)}
NOTHING = -1

KINDS = ("body", "cabin", "person", "housing", "pole", "crown", "house")  # textures in shade.py
KIND = {name: index for index, name in enumerate(KINDS)}
TREE, HOUSE = 0, 1  # Props.kind

VEHICLE_BODY, VEHICLE_CABIN, PERSON, LIGHT = slice(0, 4), slice(4, 8), slice(8, 12), 12  # where in the table

HOUSING_HALF = (0.12, 0.42, 1.05)
HOUSING_HEIGHT = 3.75  # centre, over the road
BEYOND_LINE = 4.0  # m from the stop line to the light


@flax.struct.dataclass
class Boxes:
    """centre, half, colour [N, 3]; yaw [N]; kind [N] index of KINDS; lit [N]: brake lamps on, or the state of a light;
    label [N] index of CELL_CLASSES or NOTHING; valid [N]."""

    centre: jax.Array
    half: jax.Array
    colour: jax.Array
    yaw: jax.Array
    kind: jax.Array
    lit: jax.Array
    label: jax.Array
    valid: jax.Array


def _boxes(centre, half, colour, yaw, kind, lit, label, valid):
    n = centre.shape[0]
    full = lambda value, dtype: jnp.broadcast_to(jnp.asarray(value, dtype), (n,))
    wide = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, 3))
    return Boxes(centre, wide(half), wide(colour), full(yaw, jnp.float32), full(kind, jnp.int32),
                 full(lit, jnp.float32), full(label, jnp.int32), full(valid, bool))  # fmt: skip


def of_world(world: World, time=0.0) -> Boxes:
    """All boxes at `time` [] s from t0, in the ego frame at t0; the first at fixed places: VEHICLE_BODY ... LIGHT."""
    parts = (*_vehicles(world, time), _persons(world, time), *_light(world), *_scenery(world))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def agent_labels(world: World):
    """[M] class of each agent at t0, by the driver's predicates."""
    agents = world.agents
    left = agents.d > 0.0
    vehicle = jnp.where(state.is_lead(agents), CLASS["lead_vehicle"], CLASS["vehicle_aside"])
    blocking = jnp.where(left, CLASS["blocking_vehicle_left"], CLASS["blocking_vehicle_right"])
    vehicle = jnp.where(state.is_blocking(agents), blocking, vehicle)
    on_road = jnp.where(left, CLASS["person_on_road_left"], CLASS["person_on_road_right"])
    person = jnp.where(state.is_on_road(agents), on_road, CLASS["person_aside"])
    return jnp.where(agents.kind == state.PERSON, person, vehicle)


def _placed(world, time):
    """x, y, yaw [M] of the agents."""
    s, d = motion.road_positions(world.agents, jnp.reshape(jnp.asarray(time, jnp.float32), (1,)))
    x, y, heading = arcs.to_cartesian(s[0], d[0], world.road.curvature)
    return x, y, heading + world.agents.heading


def _vehicles(world, time):
    x, y, yaw = (value[: state.VEHICLE_SLOTS] for value in _placed(world, time))
    agents = jax.tree.map(lambda leaf: leaf[: state.VEHICLE_SLOTS], world.agents)
    label = agent_labels(world)[: state.VEHICLE_SLOTS]
    length, width, height = agents.size[:, 0], agents.size[:, 1], agents.size[:, 2]
    sill = 0.62 * height
    at = lambda back, z: jnp.stack([x - back * jnp.cos(yaw), y - back * jnp.sin(yaw), z], -1)
    body = _boxes(at(0.0, sill / 2 + 0.15), jnp.stack([length / 2, width / 2, sill / 2], -1), agents.colour, yaw,
                  KIND["body"], agents.brake, label, agents.valid)  # fmt: skip
    roof = (height - sill) / 2
    cabin = _boxes(at(0.25, sill + 0.15 + roof), jnp.stack([length * 0.29, width * 0.44, roof], -1), agents.colour, yaw,
                   KIND["cabin"], agents.brake, label, agents.valid)  # fmt: skip
    return body, cabin


def _persons(world, time):
    x, y, yaw = (value[state.VEHICLE_SLOTS :] for value in _placed(world, time))
    agents = jax.tree.map(lambda leaf: leaf[state.VEHICLE_SLOTS :], world.agents)
    kerb = jnp.where(jnp.abs(agents.d) > state.KERB, 0.12, 0.0)
    return _boxes(jnp.stack([x, y, agents.size[:, 2] / 2 + kerb], -1), agents.size / 2, agents.colour, yaw,
                  KIND["person"], 0.0, agent_labels(world)[state.VEHICLE_SLOTS :], agents.valid)  # fmt: skip


def _light(world):
    light = world.light
    side = -(state.KERB + 0.6)
    s, d = jnp.full(3, light.stop + BEYOND_LINE), jnp.stack([light.d, side, (light.d + side) / 2])
    s = s + jnp.array([-0.15, 0.0, 0.0])
    x, y, heading = arcs.to_cartesian(s, d, world.road.curvature)
    top = HOUSING_HEIGHT + 0.75
    z = jnp.array([HOUSING_HEIGHT, top / 2, top])
    arm = jnp.abs(light.d - side) / 2
    half = jnp.stack([jnp.array(HOUSING_HALF), jnp.array([0.09, 0.09, top / 2]),
                      jnp.stack([0.06 + 0.0 * arm, arm, 0.06 + 0.0 * arm])])  # fmt: skip
    label = jnp.where(light.state > 0, light.state - 1, NOTHING)
    colour = jnp.array([(0.07, 0.07, 0.07), (0.35, 0.36, 0.37), (0.35, 0.36, 0.37)])
    kind = jnp.array([KIND["housing"], KIND["pole"], KIND["pole"]])
    labels = jnp.stack([label, NOTHING, NOTHING])
    return (
        _boxes(jnp.stack([x, y, z], -1), half, colour, heading, kind, light.state, labels, light.state > 0),
    )


def _scenery(world):
    props = world.props
    x, y, heading = arcs.to_cartesian(props.s, props.d, world.road.curvature)
    tree = props.kind == TREE
    z = props.bottom + props.half[:, 2]
    yaw = heading + props.yaw
    main = _boxes(jnp.stack([x, y, z], -1), props.half, props.colour, yaw,
                  jnp.where(tree, KIND["crown"], KIND["house"]), 0.0, NOTHING, props.valid)  # fmt: skip
    trees = 6
    trunk = _boxes(jnp.stack([x, y, 0.0 * x + 0.9], -1)[:trees], (0.16, 0.16, 0.9), (0.3, 0.22, 0.15), yaw[:trees],
                   KIND["pole"], 0.0, NOTHING, (props.valid & tree)[:trees])  # fmt: skip
    return main, trunk
