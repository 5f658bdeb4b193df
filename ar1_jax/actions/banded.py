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


def multiply(bands: jax.Array, x: jax.Array) -> jax.Array:
    """M x for bands [..., N, 4] and x [..., N] -> [..., N]."""
    out = bands[..., 0] * x
    for k in range(1, WIDTH + 1):  # unrolled: three shifted products, below and above the diagonal
        band = bands[..., k:, k]
        below = band * x[..., :-k]
        above = band * x[..., k:]
        out = out.at[..., k:].add(below).at[..., :-k].add(above)
    return out


def _factor(bands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """bands [..., N, 4] -> rows of L as bands [..., N, 4] and, per system, whether every pivot was good [...]."""

    def row(carry, band):
        (l1, l2, l3), good = carry  # the three rows above, nearest first
        c3 = band[..., 3] / l3[..., 0]
        c2 = (band[..., 2] - c3 * l2[..., 1]) / l2[..., 0]
        c1 = (band[..., 1] - c3 * l1[..., 2] - c2 * l1[..., 1]) / l1[..., 0]
        pivot = band[..., 0] - c1 * c1 - c2 * c2 - c3 * c3
        good = good & (pivot > 0) & jnp.isfinite(pivot)
        new = jnp.stack([jnp.sqrt(pivot), c1, c2, c3], axis=-1)
        return ((new, l1, l2), good), new

    above = jnp.zeros_like(bands[..., 0, :]).at[..., 0].set(1)  # rows of the identity before the first
    start = ((above, above, above), jnp.ones(bands.shape[:-2], bool))
    (_, good), rows = jax.lax.scan(row, start, jnp.moveaxis(bands, -2, 0))
    return jnp.moveaxis(rows, 0, -2), good


def _substitute(rows: jax.Array, rhs: jax.Array) -> jax.Array:
    """L L^T x = rhs for rows of L [..., N, 4] and rhs [..., N] -> x [..., N]."""

    def forward(carry, step):
        (y1, y2, y3), (row, b) = carry, step
        y = (b - row[..., 1] * y1 - row[..., 2] * y2 - row[..., 3] * y3) / row[..., 0]
        return (y, y1, y2), y

    def backward(carry, step):
        (x1, x2, x3), (diagonal, below, y) = carry, step
        x = (y - below[0] * x1 - below[1] * x2 - below[2] * x3) / diagonal
        return (x, x1, x2), x

    zeros = (jnp.zeros_like(rhs[..., 0]),) * WIDTH
    _, y = jax.lax.scan(forward, zeros, (jnp.moveaxis(rows, -2, 0), jnp.moveaxis(rhs, -1, 0)))
    padded = jnp.pad(rows, [(0, 0)] * (rows.ndim - 2) + [(0, WIDTH), (0, 0)])
    columns = [jnp.moveaxis(padded[..., k : k + rows.shape[-2], k], -1, 0) for k in range(WIDTH + 1)]
    _, x = jax.lax.scan(backward, zeros, (columns[0], columns[1:], y), reverse=True)
    return jnp.moveaxis(x, 0, -1)


def solve(bands: jax.Array, rhs: jax.Array, ridge: float) -> jax.Array:
    """(M + ridge I) x = rhs for lower bands [..., N, 4] of M and rhs [..., N] -> x [..., N].

    A system whose pivots are not positive and finite is tried again with ten times the ridge, at most MAX_RETRIES
    times; one that never factors (NaN in the input) yields NaN. One step of iterative refinement keeps float32 close
    to float64.
    """
    shape = jnp.broadcast_shapes(bands.shape[:-2], rhs.shape[:-1])
    bands = jnp.broadcast_to(bands, (*shape, *bands.shape[-2:]))
    rhs = jnp.broadcast_to(rhs, (*shape, rhs.shape[-1]))

    def damp(ridge):
        return bands.at[..., 0].add(ridge[..., None])

    def again(state):
        tries, _, good, _ = state
        return (tries < MAX_RETRIES) & ~jnp.all(good)

    def retry(state):
        tries, ridge, good, rows = state
        ridge = jnp.where(good, ridge, ridge * 10)
        fresh, now_good = _factor(damp(ridge))
        return tries + 1, ridge, now_good, jnp.where(good[..., None, None], rows, fresh)

    ridges = jnp.full(shape, ridge, rhs.dtype)
    rows, good = _factor(damp(ridges))
    _, ridges, _, rows = jax.lax.while_loop(again, retry, (0, ridges, good, rows))
    x = _substitute(rows, rhs)
    return x + _substitute(rows, rhs - multiply(damp(ridges), x))
