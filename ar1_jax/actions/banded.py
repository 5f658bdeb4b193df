"""Symmetric positive definite systems of bandwidth 3, solved by a Cholesky scan over the rows.

N rows. A matrix is its lower bands, [..., N, 4]: bands[..., i, k] = M[i, i-k], entries outside the matrix are 0.
The systems are the regularised least squares of the action codec (unicycle.py); dense factorisation would cost
N^3 and hides that each row knows only three neighbours.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

WIDTH = 3  # sub-diagonals
MAX_RETRIES = 8


@functools.cache
def difference_gram(rows: int, order: int) -> np.ndarray:
    """Lower bands [rows, 4] of D^T D, where D takes differences of `order` 2 (-1,2,-1) or 3 (-1,3,-3,1)."""
    stencil = {2: (-1.0, 2.0, -1.0), 3: (-1.0, 3.0, -3.0, 1.0)}[order]
    d = np.zeros((max(rows - order, 0), rows))
    for i in range(len(d)):
        d[i, i : i + order + 1] = stencil
    return lower_bands(d.T @ d)


def lower_bands(matrix: np.ndarray) -> np.ndarray:
    """Dense symmetric [N, N] of bandwidth 3 -> its lower bands [N, 4]."""
    return np.stack([np.pad(np.diagonal(matrix, -k), (k, 0)) for k in range(WIDTH + 1)], axis=-1)


@functools.cache
def smoother(rows: int, order: int, weight: float, ridge: float, drop: int = 0) -> np.ndarray:
    """(I + weight D^T D + ridge I)^-1, float32 [rows-drop, rows-drop]: the fixed systems, inverted once in float64.

    drop: leading unknowns that are known to be zero and left out.
    """
    bands = difference_gram(rows, order)
    matrix = np.diag(1 + ridge + weight * bands[:, 0])
    for k in range(1, WIDTH + 1):
        off = np.diag(weight * bands[k:, k], -k)
        matrix += off + off.T
    return np.linalg.inv(matrix[drop:, drop:]).astype(np.float32)


def smooth(values: jax.Array, matrix: np.ndarray) -> jax.Array:
    """A smoother applied to values [..., N], in full float32."""
    return jnp.einsum("ij,...j->...i", matrix, values, precision="highest")


def _eliminate(bands: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """bands [..., N, 4], rhs [..., N] -> rows of L as bands, y with L y = rhs, and whether every pivot was good."""

    def row(carry, step):
        (above, good), (band, b) = carry, step
        (l1, y1), (l2, y2), (l3, y3) = above  # the three rows before, nearest first
        c3 = band[..., 3] / l3[..., 0]
        c2 = (band[..., 2] - c3 * l2[..., 1]) / l2[..., 0]
        c1 = (band[..., 1] - c3 * l1[..., 2] - c2 * l1[..., 1]) / l1[..., 0]
        pivot = band[..., 0] - c1 * c1 - c2 * c2 - c3 * c3
        diagonal = jnp.sqrt(pivot)
        new = jnp.stack([diagonal, c1, c2, c3], axis=-1)
        y = (b - c1 * y1 - c2 * y2 - c3 * y3) / diagonal
        good = good & (pivot > 0) & jnp.isfinite(pivot)
        return (((new, y), (l1, y1), (l2, y2)), good), (new, y)

    before = jnp.zeros_like(bands[..., 0, :]).at[..., 0].set(1), jnp.zeros_like(rhs[..., 0])
    start = (before,) * WIDTH, jnp.ones(rhs.shape[:-1], bool)
    (_, good), (rows, y) = jax.lax.scan(row, start, (jnp.moveaxis(bands, -2, 0), jnp.moveaxis(rhs, -1, 0)))
    return jnp.moveaxis(rows, 0, -2), jnp.moveaxis(y, 0, -1), good


def _substitute_back(rows: jax.Array, y: jax.Array) -> jax.Array:
    """L^T x = y for rows of L [..., N, 4] and y [..., N] -> x [..., N]."""

    def row(carry, step):
        (x1, x2, x3), (diagonal, below, y) = carry, step
        x = (y - below[0] * x1 - below[1] * x2 - below[2] * x3) / diagonal
        return (x, x1, x2), x

    n = rows.shape[-2]
    padded = jnp.pad(rows, [(0, 0)] * (rows.ndim - 2) + [(0, WIDTH), (0, 0)])
    diagonal, *below = (jnp.moveaxis(padded[..., k : k + n, k], -1, 0) for k in range(WIDTH + 1))
    zeros = (jnp.zeros_like(y[..., 0]),) * WIDTH
    _, x = jax.lax.scan(row, zeros, (diagonal, below, jnp.moveaxis(y, -1, 0)), reverse=True)
    return jnp.moveaxis(x, 0, -1)


def solve(bands: jax.Array, rhs: jax.Array, ridge: float) -> jax.Array:
    """(M + ridge I) x = rhs for lower bands [..., N, 4] of M and rhs [..., N] -> x [..., N].

    A system whose pivots are not positive and finite is tried again with ten times its ridge, at most MAX_RETRIES
    times; one that never factors (NaN in the input) yields NaN, and the others do not notice.
    """
    shape = jnp.broadcast_shapes(bands.shape[:-2], rhs.shape[:-1])
    bands = jnp.broadcast_to(bands, (*shape, *bands.shape[-2:]))
    rhs = jnp.broadcast_to(rhs, (*shape, rhs.shape[-1]))

    def unfinished(state):
        tries, _, good, _, _ = state
        return (tries <= MAX_RETRIES) & ~jnp.all(good)

    def attempt(state):
        tries, ridge, good, rows, y = state
        new_rows, new_y, now_good = _eliminate(bands.at[..., 0].add(ridge[..., None]), rhs)
        rows = jnp.where(good[..., None, None], rows, new_rows)
        y = jnp.where(good[..., None], y, new_y)
        good = good | now_good
        return tries + 1, jnp.where(good, ridge, ridge * 10), good, rows, y

    start = (0, jnp.full(shape, ridge, rhs.dtype), jnp.zeros(shape, bool), bands, rhs)
    *_, rows, y = jax.lax.while_loop(unfinished, attempt, start)
    return _substitute_back(rows, y)
