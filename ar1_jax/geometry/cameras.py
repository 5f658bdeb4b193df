"""Cameras: pinhole and f-theta, pixels to rays and points to pixels.

Camera axes x right, y down, z forward; pixel (column, row) with the centre of the first pixel at (0.5, 0.5). f-theta:
the radius in pixels is polynomial(angle from the axis in rad), lowest order first. `camera` is any object with the
fields of core.types.CameraModel (model, width, height, fx, fy, cx, cy, polynomial, rig_from_camera)."""

import jax.numpy as jnp
import numpy as np

from ar1_jax.geometry import frames

_NEWTON_STEPS = 8  # the radius is monotonic and nearly linear in the angle


def _known(camera):
    if camera.model not in ("pinhole", "ftheta"):
        raise ValueError(f"camera model {camera.model!r} is not one of pinhole, ftheta")


def rays(camera, pixels):
    """pixels [..., 2] -> unit directions [..., 3] in camera axes."""
    _known(camera)
    offset = jnp.asarray(pixels, jnp.float32) - jnp.array([camera.cx, camera.cy], jnp.float32)
    if camera.model == "pinhole":
        x, y = offset[..., 0] / camera.fx, offset[..., 1] / camera.fy
        direction = jnp.stack([x, y, jnp.ones_like(x)], -1)
        return direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    radius = jnp.sqrt(jnp.sum(offset**2, -1))
    angle = _angle_of_radius(camera.polynomial, radius)
    lateral = jnp.sin(angle) / jnp.maximum(radius, 1e-6)
    return jnp.stack([offset[..., 0] * lateral, offset[..., 1] * lateral, jnp.cos(angle)], -1)


def pixel_grid(camera) -> np.ndarray:
    """Centres of all pixels, float32 [height, width, 2]."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return np.stack([columns, rows], -1).astype(np.float32)


def project(camera, points):
    """Points of the rig frame [..., N, 3] -> (pixels [..., N, 2], visible [..., N]: before the camera, in the picture).

    Pixels of points that are not visible are finite and meaningless."""
    pixels, before = onto_plane(camera, points)
    size = jnp.array([camera.width, camera.height], jnp.float32)
    return pixels, before & jnp.all((pixels >= 0) & (pixels < size), -1)


def onto_plane(camera, points):
    """Points of the rig frame [..., N, 3] -> (pixels [..., N, 2] in the picture or beside it, before [..., N]).

    before: the point lies before the camera; for f-theta, within the angles over which the radius grows, since beyond
    them a polynomial of measured lenses turns back into the picture. Other pixels are finite and meaningless."""
    _known(camera)
    local = frames.apply(frames.inverse(jnp.asarray(camera.rig_from_camera, jnp.float32)), points)
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    if camera.model == "pinhole":
        before = z > 1e-3
        depth = jnp.where(before, z, 1.0)
        return jnp.stack([camera.cx + camera.fx * x / depth, camera.cy + camera.fy * y / depth], -1), before
    lateral = jnp.sqrt(x * x + y * y)
    angle = jnp.arctan2(lateral, z)
    scale = _polynomial(camera.polynomial, angle) / jnp.maximum(lateral, 1e-6)
    return jnp.stack([camera.cx + x * scale, camera.cy + y * scale], -1), angle < _widest(camera.polynomial)


def _widest(coefficients) -> jnp.ndarray:
    """The angle up to which the radius polynomial grows, at most 135 deg."""
    angles = np.linspace(0, 0.75 * np.pi, 1024, dtype=np.float32)
    falls = jnp.diff(_polynomial(coefficients, jnp.asarray(angles))) <= 0
    return jnp.where(falls.any(), jnp.asarray(angles)[jnp.argmax(falls)], angles[-1])


def _polynomial(coefficients, value):
    result = jnp.zeros_like(value)
    for coefficient in reversed(coefficients):
        result = result * value + coefficient
    return result


def _angle_of_radius(coefficients, radius):
    """Inverse of the radius polynomial by Newton steps from its linear term."""
    slope = tuple(order * c for order, c in enumerate(coefficients))[1:]
    angle = radius / coefficients[1]
    for _ in range(_NEWTON_STEPS):
        angle = angle - (_polynomial(coefficients, angle) - radius) / _polynomial(slope, angle)
    return angle
