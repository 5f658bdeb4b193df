"""Leaving the road: a road is an arc of constant curvature with two edges (geometry/arcs.py).

W waypoints, any leading batch. A road is [..., >= 3]: curvature 1/m, d of the right edge (negative) and of the left
edge in m, at the ego's origin at t0 along +x."""

import jax.numpy as jnp

from ar1_jax.geometry import arcs
from ar1_jax.metrics import collision


def overhang(xyz, rotation, road, footprint: collision.Footprint = collision.EGO):
    """Ego poses [..., W, 3], [..., W, 3, 3] -> [..., W] m by which the outermost corner is beyond an edge; negative
    on the road (distance to the nearer edge)."""
    points = collision.corners(collision.ego_boxes(xyz, rotation, footprint))
    at = lambda index: road[..., None, None, index]
    _, d = arcs.to_road(points[..., 0], points[..., 1], at(0))
    return jnp.max(jnp.maximum(d - at(2), at(1) - d), -1)


def off_road(xyz, rotation, road, footprint: collision.Footprint = collision.EGO):
    """As `overhang` -> bool [..., W]: a corner of the ego lies beyond an edge."""
    return overhang(xyz, rotation, road, footprint) > 0.0


def lane_offset(xyz, road):
    """Positions [..., W, 3] -> [..., W] m to the left of the lane's centre."""
    return arcs.to_road(xyz[..., 0], xyz[..., 1], road[..., None, 0])[1]


def crosses_line(xyz, road_stop_line, curvature, footprint: collision.Footprint = collision.EGO):
    """Positions [..., W, 3], s of a stop line [...], curvature [...] -> bool [..., W]: the front is beyond the line."""
    s, _ = arcs.to_road(xyz[..., 0], xyz[..., 1], curvature[..., None])
    return s + footprint.front > road_stop_line[..., None]
