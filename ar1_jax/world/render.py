"""Ray caster: one scene's boxes and road to four pictures, and what is to be seen in each cell of 32 x 32 pixels.

C cameras, P = 96 * 160 pixels, K = 12 boxes kept a camera (the nearest in its view), n = len(CELL_CLASSES). Boxes are
tested in a lax.scan that carries only the nearest hit (distance, box): unrolled or batched over boxes the same program
is several times slower on a CPU. Colours are found once a pixel, after the scan. float32 throughout."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ar1_jax.geometry import arcs
from ar1_jax.world import boxes, rig, shade
from ar1_jax.world.boxes import CELL_CLASSES, Boxes

KEPT = 12
CELL = 32
CELLS = (rig.HEIGHT // CELL, rig.WIDTH // CELL)
_FAR = 1e4


class Pictures(NamedTuple):
    images: jax.Array  # u8 [C, H, W, 3]
    cells: jax.Array  # u8 [C, 3, 5, n]: 1 where a pixel of the class lies in the cell
    box_pixels: jax.Array  # i32 [N] pixels of each box, all cameras
    shining: jax.Array  # i32 [N] of these, pixels of a shining lamp


class _Table(NamedTuple):
    """Per kept box: geometry [K, 8] centre, half, cos and sin of yaw; looks [K, 8] colour, kind, lit, label, number
    of the box, nothing."""

    geometry: jax.Array
    looks: jax.Array


def render(world, at: Boxes, pose) -> Pictures:
    """One scene. at: boxes in the ego frame at t0; pose: (x, y, yaw) of the ego in it when the picture is taken."""
    tables = rig.tables()
    local = _as_seen_from(at, pose)
    shot = lambda direction, angle, axis, half: _camera(world, local, pose, direction, angle, axis, half)
    images, cells, box_pixels, shining = jax.vmap(shot)(*(jnp.asarray(table) for table in tables))
    return Pictures(images, cells, box_pixels.sum(0), shining.sum(0))


def _as_seen_from(at: Boxes, pose) -> Boxes:
    x, y, yaw = pose
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    dx, dy = at.centre[:, 0] - x, at.centre[:, 1] - y
    centre = jnp.stack([c * dx + s * dy, -s * dx + c * dy, at.centre[:, 2]], -1)
    return at.replace(centre=centre, yaw=at.yaw - yaw)


def _camera(world, local: Boxes, pose, direction, pixel_angle, axis, half_view):
    """One camera -> Pictures without the axis C."""
    table = _cull(local, axis, half_view)
    distance, nearest = _nearest(table.geometry, direction)
    down = direction[:, 2]
    ground_at = jnp.where(down < -1e-4, -rig.POSITION[2] / jnp.minimum(down, -1e-4), _FAR)
    on_box = distance < ground_at
    colour = _background(world, pose, direction, ground_at, pixel_angle)
    row = table.geometry[nearest], table.looks[nearest]
    on, shines = _faces(world, row, direction, distance, pose)
    haze = 1.0 - jnp.exp(-world.look.haze * jnp.minimum(distance, 400.0))
    on = shade._mix(on, shade.horizon(world.look), haze * jnp.where(shines, 0.3, 1.0))
    bright = jnp.where(shines, 1.0, world.look.brightness)[:, None]
    shown = jnp.where(on_box[:, None], on * bright, colour * world.look.brightness)
    image = (jnp.clip(shown, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)
    hits, shining = _count(jnp.where(on_box, nearest, -1), shines)
    number, n = table.looks[:, 6].astype(jnp.int32), local.yaw.shape[0]
    total = lambda counts: jnp.zeros(n, jnp.int32).at[number].add(counts.sum((0, 1)).astype(jnp.int32))
    cells = _cells(hits, shining, table.looks[:, 5])
    return Pictures(image.reshape(rig.HEIGHT, rig.WIDTH, 3), cells, total(hits), total(shining))


def _cull(local: Boxes, axis, half_view) -> _Table:
    """K boxes that may reach into the view, those with a class before scenery, the nearest first; the rest, and the
    invalid, go far away."""
    offset = local.centre[:, :2] - jnp.asarray(rig.POSITION[:2])
    distance = jnp.sqrt(jnp.sum(offset**2, -1)) + 1e-3
    radius = jnp.sqrt(jnp.sum(local.half**2, -1))
    angle = jnp.arccos(jnp.clip(offset @ axis / distance, -1.0, 1.0))
    within = angle < half_view + jnp.arctan2(radius, jnp.maximum(distance - radius, 0.01))
    seen = local.valid & within
    rank = distance - radius - jnp.where(local.label >= 0, _FAR / 2.0, 0.0)
    _, index = jax.lax.top_k(-jnp.where(seen, rank, _FAR), KEPT)
    centre = jnp.where(seen[:, None], local.centre, _FAR)
    geometry = jnp.concatenate(
        [centre, local.half, jnp.cos(local.yaw)[:, None], jnp.sin(local.yaw)[:, None]], -1
    )
    number = jnp.arange(local.yaw.shape[0])
    rest = jnp.stack([local.kind, local.lit, local.label, number, 0.0 * local.lit], -1)
    looks = jnp.concatenate([local.colour, rest], -1)
    return _Table(geometry[index], looks[index].astype(jnp.float32))


def _nearest(geometry, direction):
    """Slab test of all rays [P, 3] against boxes [K, 8] -> distance [P] of the nearest hit, box [P]."""
    dx, dy, dz = direction[:, 0], direction[:, 1], direction[:, 2]
    inverse_z = 1.0 / jnp.where(jnp.abs(dz) < 1e-6, 1e-6, dz)

    def slab(origin, inverse, half):
        middle, reach = -origin * inverse, half * jnp.abs(inverse)
        return middle - reach, middle + reach

    def test(carry, row):
        best, which = carry
        box, index = row
        x, y, z = rig.POSITION[0] - box[0], rig.POSITION[1] - box[1], rig.POSITION[2] - box[2]
        c, s = box[6], box[7]
        lx, ly = c * dx + s * dy, c * dy - s * dx
        safe = lambda value: 1.0 / jnp.where(jnp.abs(value) < 1e-6, 1e-6, value)
        x_in, x_out = slab(c * x + s * y, safe(lx), box[3])
        y_in, y_out = slab(c * y - s * x, safe(ly), box[4])
        z_in, z_out = slab(z, inverse_z, box[5])
        enter = jnp.maximum(jnp.maximum(x_in, y_in), z_in)
        leave = jnp.minimum(jnp.minimum(x_out, y_out), z_out)
        closer = (enter < leave) & (enter > 0.05) & (enter < best)
        return (jnp.where(closer, enter, best), jnp.where(closer, index, which)), None

    start = jnp.full(dx.shape, _FAR), jnp.zeros(dx.shape, jnp.int32)
    (best, which), _ = jax.lax.scan(test, start, (geometry, jnp.arange(KEPT, dtype=jnp.int32)))
    return best, which


def _background(world, pose, direction, ground_at, pixel_angle):
    """Ground or sky [P, 3] with haze."""
    x, y, yaw = pose
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    reach = jnp.minimum(ground_at, 300.0)
    px, py = rig.POSITION[0] + reach * direction[:, 0], rig.POSITION[1] + reach * direction[:, 1]
    along, across = arcs.to_road(x + c * px - s * py, y + s * px + c * py, world.road.curvature)
    paint = shade.ground(along, across, reach, pixel_angle, world.light, world.look)
    haze = 1.0 - jnp.exp(-(world.look.haze + 0.002) * reach)
    paint = shade._mix(paint, shade.horizon(world.look), haze)
    return jnp.where((ground_at < 300.0)[:, None], paint, shade.sky(direction[:, 2], world.look))


def _faces(world, row, direction, distance, pose):
    """Colour [P, 3] of the hit points and whether a lamp shines there [P]. row: geometry and looks [P, 8] each."""
    geometry, looks = row
    point = jnp.asarray(rig.POSITION) + distance[:, None] * direction - geometry[:, :3]
    c, s = geometry[:, 6], geometry[:, 7]
    half = geometry[:, 3:6]
    u = (c * point[:, 0] + s * point[:, 1]) / half[:, 0]
    v = (c * point[:, 1] - s * point[:, 0]) / half[:, 1]
    w = point[:, 2] / half[:, 2]
    face = jnp.argmax(jnp.abs(jnp.stack([u, v, w], -1)), -1)
    sun_yaw_c, sun_yaw_s = jnp.cos(pose[2]), jnp.sin(pose[2])
    sx = sun_yaw_c * world.look.sun[0] + sun_yaw_s * world.look.sun[1]
    sy = sun_yaw_c * world.look.sun[1] - sun_yaw_s * world.look.sun[0]
    facing = jnp.where(face == 0, jnp.sign(u) * (c * sx + s * sy), jnp.sign(v) * (c * sy - s * sx))
    facing = facing * (1.0 - 0.7 * world.look.overcast)
    return shade.box(looks[:, 3], looks[:, :3], looks[:, 4], u, v, w, half, face, facing)


def _count(nearest, shines):
    """nearest [P] kept box or -1, shines [P] -> pixels of each box in each cell [3, 5, K], and those that shine."""
    rows, columns = CELLS
    grid = (rows, CELL, columns, CELL, 1)
    own = nearest.reshape(grid) == jnp.arange(KEPT)
    count = lambda mask: jnp.sum(mask, (1, 3), dtype=jnp.float32)
    return count(own), count(own & shines.reshape(grid))


def _cells(hits, shining, label):
    """hits, shining [3, 5, K], label [K] -> multi-hot u8 [3, 5, n]. A light counts by its shining lamp alone; a shining
    brake lamp adds its class to that of the vehicle."""
    brake = boxes.CLASS["brake_light"]
    is_light = label < brake
    seen = jnp.where(is_light, shining, hits)
    of_class = label[:, None] == jnp.arange(len(CELL_CLASSES))
    brakes = (~is_light[:, None]) & (jnp.arange(len(CELL_CLASSES)) == brake)
    return ((seen @ of_class.astype(jnp.float32) + shining @ brakes.astype(jnp.float32)) > 0.5).astype(
        jnp.uint8
    )
