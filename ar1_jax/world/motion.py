"""Where the agents are at any time: closed forms, M agents, N times; nobody reacts to the ego (open loop)."""

import jax.numpy as jnp

from ar1_jax.geometry import arcs
from ar1_jax.world import state
from ar1_jax.world.state import Agents

AGENT_FIELDS = ("x", "y", "yaw", "length", "width", "valid", "kind")
_KERB_STOP = state.KERB + 1.0  # who crosses stops on the pavement


def road_positions(agents: Agents, time):
    """s, d [N, M] at times [N]; an agent that brakes stands when its speed is used up, before t0 it kept its speed."""
    t = time[:, None]
    stands_at = jnp.where(agents.accel < 0.0, agents.speed / jnp.maximum(-agents.accel, 1e-3), jnp.inf)
    t_moving = jnp.minimum(t, stands_at)
    along = agents.speed * t_moving + jnp.where(t > 0.0, agents.accel * t_moving**2 / 2.0, 0.0)
    s = agents.s + jnp.cos(agents.heading) * along
    d = agents.d + jnp.sin(agents.heading) * along + agents.cross * t
    target = jnp.sign(agents.cross) * _KERB_STOP
    d = jnp.where(agents.cross > 0.0, jnp.minimum(d, jnp.maximum(target, agents.d)),
                  jnp.where(agents.cross < 0.0, jnp.maximum(d, jnp.minimum(target, agents.d)), d))  # fmt: skip
    return s, d


def boxes(agents: Agents, road: state.Road, time):
    """Boxes [M, N, 7] (AGENT_FIELDS) at times [N], ego frame at t0; invalid agents are all zero."""
    s, d = road_positions(agents, time)
    x, y, heading = arcs.to_cartesian(s, d, road.curvature)
    full = lambda value: jnp.broadcast_to(value, x.shape)
    fields = (x, y, heading + agents.heading, full(agents.size[:, 0]), full(agents.size[:, 1]), full(1.0),
              full(agents.kind.astype(jnp.float32)))  # fmt: skip
    return (jnp.stack(fields, -1) * agents.valid[:, None]).swapaxes(0, 1)
