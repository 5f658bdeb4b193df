"""State of the world at t0 as pytrees, and the predicates on which driver and labels agree.

M = 8 agents, P props; no batch axis: everything is written for one scene and vmapped. Road coordinates (s, d) in
metres: s along the ego's lane centre from the ego's origin at t0, d to its left. The ego's origin lies on the ground
under its rear axle. Everything moves by closed forms in time, so any instant can be drawn. Constants in m and m/s."""

import flax.struct
import jax
import jax.numpy as jnp

from ar1_jax.metrics import collision

AGENTS = 8  # slots 0-3 vehicles (0 the lead or the stopped one), 4-7 persons (4 the one who may cross)
VEHICLE_SLOTS = 4
NOBODY, VEHICLE, PERSON = 0, 1, 2  # Agents.kind
DARK, RED, YELLOW, GREEN = 0, 1, 2, 3  # Light.state; DARK: there is no light

LANE = 3.6  # lane width; the road has one lane each side of the ego's
KERB = 1.5 * LANE + 0.2  # |d| of the kerb: the edge of the road
EGO_FRONT, EGO_REAR, EGO_WIDTH = collision.EGO  # from the origin to the bumpers, and the width
EGO_LENGTH = EGO_FRONT + EGO_REAR
IN_LANE = 1.0  # a vehicle whose |d| is below is in the ego's lane
INTRUDES = 1.5  # a vehicle whose nearer side lies within this |d| blocks the lane partly
STANDSTILL = 0.3


@flax.struct.dataclass
class Road:
    """curvature [] 1/m, left positive."""

    curvature: jax.Array


@flax.struct.dataclass
class Ego:
    """speed [] m/s and accel [] m/s2 at t0; wander [] m/s2: sideways acceleration of the history, gone at t0."""

    speed: jax.Array
    accel: jax.Array
    wander: jax.Array


@flax.struct.dataclass
class Agents:
    """All [M]. kind; s, d of the centre; heading rad against the road; speed m/s along the heading; accel m/s2
    until standstill; cross m/s sideways; size [M, 3] length, width, height; colour [M, 3] in 0..1; brake: lamps
    lit; valid."""

    kind: jax.Array
    s: jax.Array
    d: jax.Array
    heading: jax.Array
    speed: jax.Array
    accel: jax.Array
    cross: jax.Array
    size: jax.Array
    colour: jax.Array
    brake: jax.Array
    valid: jax.Array


@flax.struct.dataclass
class Light:
    """One traffic light: state [], stop [] s of the stop line, d [] of the housing over the road."""

    state: jax.Array
    stop: jax.Array
    d: jax.Array


@flax.struct.dataclass
class Props:
    """Scenery [P]: kind (boxes.py), s, d, yaw against the road, half sizes and colour [P, 3], bottom z [P], valid."""

    kind: jax.Array
    s: jax.Array
    d: jax.Array
    yaw: jax.Array
    half: jax.Array
    colour: jax.Array
    bottom: jax.Array
    valid: jax.Array


@flax.struct.dataclass
class Look:
    """brightness [] of everything, sun [2] horizontal direction, haze [] 1/m, grass [3], overcast [] 0..1."""

    brightness: jax.Array
    sun: jax.Array
    haze: jax.Array
    grass: jax.Array
    overcast: jax.Array


@flax.struct.dataclass
class World:
    road: Road
    ego: Ego
    agents: Agents
    light: Light
    props: Props
    look: Look


def put(agents: Agents, slot: int, **fields) -> Agents:
    """Agents with one slot filled and made valid."""
    fields = {"valid": True, **fields}
    return agents.replace(
        **{name: getattr(agents, name).at[slot].set(value) for name, value in fields.items()}
    )


def remove(agents: Agents, slot: int, when=True) -> Agents:
    """Agents without one slot where `when`."""
    return agents.replace(valid=agents.valid.at[slot].set(agents.valid[slot] & ~jnp.asarray(when)))


def gap(agents: Agents) -> jax.Array:
    """[M] m along the road from the ego's front bumper to the agent's nearer end."""
    along = jnp.where(agents.kind == PERSON, agents.size[:, 1], agents.size[:, 0]) / 2.0
    return agents.s - along - EGO_FRONT


def is_ahead(agents: Agents) -> jax.Array:
    """[M] valid and in front of the ego."""
    return agents.valid & (gap(agents) > 0.0)


def is_lead(agents: Agents) -> jax.Array:
    """[M] vehicles ahead in the ego's lane that move with it."""
    return (is_ahead(agents) & (agents.kind == VEHICLE) & (jnp.abs(agents.d) < IN_LANE)
            & (agents.speed > STANDSTILL) & (jnp.abs(agents.heading) < 0.5))  # fmt: skip


def is_braking_lead(agents: Agents) -> jax.Array:
    return is_lead(agents) & agents.brake


def is_blocking(agents: Agents) -> jax.Array:
    """[M] vehicles standing ahead, partly in the ego's lane."""
    near_side = jnp.abs(agents.d) - agents.size[:, 1] / 2.0
    return is_ahead(agents) & (agents.kind == VEHICLE) & (agents.speed < STANDSTILL) & (near_side < INTRUDES)


def is_on_road(agents: Agents) -> jax.Array:
    """[M] persons ahead between the kerbs."""
    return is_ahead(agents) & (agents.kind == PERSON) & (jnp.abs(agents.d) < KERB)
