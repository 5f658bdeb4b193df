"""Rotations. Matrices [..., 3, 3] act on columns; quaternions [..., 4] are (w, x, y, z); angles in rad, yaw left
positive about z. Everything takes any leading batch and is differentiable away from the poles. float32 in and out."""

import jax.numpy as jnp


def wrap(angle):
    """Angle [...] -> the same direction in [-pi, pi)."""
    return (angle + jnp.pi) % (2.0 * jnp.pi) - jnp.pi


def from_yaw(yaw):
    """Yaw [...] -> rotation about z [..., 3, 3]."""
    c, s, zero, one = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros_like(yaw), jnp.ones_like(yaw)
    rows = [jnp.stack(row, -1) for row in ((c, -s, zero), (s, c, zero), (zero, zero, one))]
    return jnp.stack(rows, -2)


def yaw_of(rotation):
    """Rotation [..., 3, 3] -> yaw [...] of its x axis, in (-pi, pi]."""
    return jnp.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])


def rotate(rotation, vector):
    """Rotation [..., 3, 3], vector [..., 3] -> rotated vector [..., 3]."""
    return jnp.einsum("...ij,...j->...i", rotation, vector)


def inverse(rotation):
    """Transpose of the last two axes."""
    return jnp.swapaxes(rotation, -1, -2)


def angle_between(first, second):
    """Geodesic angle [...] in rad between two rotations [..., 3, 3]; exact near 0, where arccos of the trace is not."""
    relative = inverse(first) @ second
    skew = jnp.stack([relative[..., 2, 1] - relative[..., 1, 2], relative[..., 0, 2] - relative[..., 2, 0],
                      relative[..., 1, 0] - relative[..., 0, 1]], -1)  # fmt: skip
    sine = jnp.sqrt(jnp.maximum(jnp.sum(skew**2, -1), 1e-30)) / 2.0
    return jnp.arctan2(sine, (jnp.trace(relative, axis1=-2, axis2=-1) - 1.0) / 2.0)


def from_quaternion(quaternion):
    """Quaternion (w, x, y, z) [..., 4], any length but 0 -> rotation [..., 3, 3]."""
    w, x, y, z = jnp.moveaxis(quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = ((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)))  # fmt: skip
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def to_quaternion(rotation):
    """Rotation [..., 3, 3] -> quaternion [..., 4] with w >= 0. Of the four formulas the best conditioned is taken."""
    r = lambda i, j: rotation[..., i, j]
    candidates = jnp.stack([
        jnp.stack([1 + r(0, 0) + r(1, 1) + r(2, 2), r(2, 1) - r(1, 2), r(0, 2) - r(2, 0), r(1, 0) - r(0, 1)], -1),
        jnp.stack([r(2, 1) - r(1, 2), 1 + r(0, 0) - r(1, 1) - r(2, 2), r(0, 1) + r(1, 0), r(0, 2) + r(2, 0)], -1),
        jnp.stack([r(0, 2) - r(2, 0), r(0, 1) + r(1, 0), 1 - r(0, 0) + r(1, 1) - r(2, 2), r(1, 2) + r(2, 1)], -1),
        jnp.stack([r(1, 0) - r(0, 1), r(0, 2) + r(2, 0), r(1, 2) + r(2, 1), 1 - r(0, 0) - r(1, 1) + r(2, 2)], -1),
    ], -2)  # fmt: skip
    best = jnp.argmax(jnp.diagonal(candidates, axis1=-2, axis2=-1), -1)
    q = jnp.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]
    q = q / jnp.linalg.norm(q, axis=-1, keepdims=True)
    return jnp.where(q[..., :1] < 0, -q, q)
