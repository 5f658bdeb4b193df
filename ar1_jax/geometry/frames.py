"""Rigid frames. A pose is (position [..., 3], rotation [..., 3, 3]) of a body in some frame; a transform is its
[..., 4, 4] matrix, `a_from_b` taking points of b to a. Metres, any leading batch."""

import jax.numpy as jnp

from ar1_jax.geometry import rotations


def transform(position, rotation):
    """position [..., 3], rotation [..., 3, 3] -> [..., 4, 4]."""
    top = jnp.concatenate([rotation, position[..., None]], -1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0], top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], -2)


def inverse(matrix):
    """Inverse of a rigid transform [..., 4, 4], without solving."""
    rotation = rotations.inverse(matrix[..., :3, :3])
    return transform(-rotations.rotate(rotation, matrix[..., :3, 3]), rotation)


def apply(matrix, points):
    """a_from_b [..., 4, 4] and points of b [..., N, 3] -> points of a [..., N, 3]."""
    return jnp.einsum("...ij,...nj->...ni", matrix[..., :3, :3], points) + matrix[..., None, :3, 3]


def relative(position, rotation, origin_position, origin_rotation):
    """Poses [..., N, 3], [..., N, 3, 3] as seen from one pose [..., 3], [..., 3, 3] of the same frame."""
    back = rotations.inverse(origin_rotation)
    moved = jnp.einsum("...ij,...nj->...ni", back, position - origin_position[..., None, :])
    return moved, jnp.einsum("...ij,...njk->...nik", back, rotation)
