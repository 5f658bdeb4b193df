"""Collision of oriented boxes, by separating axes, exact for rectangles.

M agents, W waypoints, any leading batch. A box is (x, y, yaw, length, width) in m and rad. The ego's origin lies under
its rear axle, so its box is ahead of it: Footprint says how far. Validity is data: an agent that is not valid touches
nobody."""

from typing import NamedTuple

import jax.numpy as jnp

from ar1_jax.geometry import rotations


class Footprint(NamedTuple):
    """m from the origin to the front and rear bumpers, and the width."""

    front: float = 3.7
    rear: float = 1.0
    width: float = 1.9


EGO = Footprint()


def ego_boxes(xyz, rotation, footprint: Footprint = EGO):
    """Poses [..., W, 3], [..., W, 3, 3] of the origin -> boxes [..., W, 5]."""
    yaw = rotations.yaw_of(rotation)
    ahead = (footprint.front - footprint.rear) / 2.0
    x, y = xyz[..., 0] + ahead * jnp.cos(yaw), xyz[..., 1] + ahead * jnp.sin(yaw)
    full = lambda value: jnp.full_like(x, value)
    return jnp.stack([x, y, yaw, full(footprint.front + footprint.rear), full(footprint.width)], -1)


def corners(boxes):
    """Boxes [..., 5] -> corners [..., 4, 2], front left first, then clockwise."""
    x, y, yaw, length, width = jnp.moveaxis(boxes, -1, 0)
    along = jnp.stack([length, length, -length, -length], -1) / 2.0
    aside = jnp.stack([width, -width, -width, width], -1) / 2.0
    c, s = jnp.cos(yaw)[..., None], jnp.sin(yaw)[..., None]
    return jnp.stack([x[..., None] + along * c - aside * s, y[..., None] + along * s + aside * c], -1)


def separation(first, second):
    """Boxes [..., 5] (broadcast) -> [...] m: widest gap over the four axes, negative where they overlap (then the
    depth); where positive, a lower bound of the true distance, equal to it unless corner faces corner."""
    dx, dy = second[..., 0] - first[..., 0], second[..., 1] - first[..., 1]
    turn = second[..., 2] - first[..., 2]
    c, s = jnp.abs(jnp.cos(turn)), jnp.abs(jnp.sin(turn))
    gaps = []
    for one, other in ((first, second), (second, first)):
        cos, sin = jnp.cos(one[..., 2]), jnp.sin(one[..., 2])
        along, aside = jnp.abs(dx * cos + dy * sin), jnp.abs(dy * cos - dx * sin)
        length, width = other[..., 3], other[..., 4]
        gaps.append(along - (one[..., 3] + length * c + width * s) / 2.0)
        gaps.append(aside - (one[..., 4] + length * s + width * c) / 2.0)
    return jnp.max(jnp.stack(gaps), 0)


def clearance(xyz, rotation, agents, footprint: Footprint = EGO):
    """Ego poses [..., W, 3], [..., W, 3, 3] and agents [..., M, W, >= 6] (x, y, yaw, length, width, valid, ...)
    -> [..., W] m: separation from the nearest valid agent, inf if there is none."""
    ego = ego_boxes(xyz, rotation, footprint)[..., None, :, :]
    gap = jnp.where(agents[..., 5] > 0.5, separation(ego, agents[..., :5]), jnp.inf)
    return jnp.min(gap, -2)


def collides(xyz, rotation, agents, footprint: Footprint = EGO):
    """As `clearance` -> bool [..., W]: the ego overlaps a valid agent at that waypoint."""
    return clearance(xyz, rotation, agents, footprint) < 0.0
