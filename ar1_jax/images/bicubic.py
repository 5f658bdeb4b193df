"""Antialiased bicubic resizing of uint8 images in fixed point, bit-equal to the released preprocessing.

Per axis: cubic kernel a = -0.5, widened by the ratio when shrinking, half-pixel centres; integer weights of at most
15 bits; width first, then height, each pass rounded and clipped to uint8. Weights are made once per pair of sizes.
Two routes with equal bits: `resize` (numpy, blocks of a banded matrix product) and `resize_jax` (jit, integer taps).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_PRECISION = 22
WEIGHT_BITS = 15
BLOCK = 32  # output pixels that one matrix product makes
SMALL = (
    2**18
)  # multiplications of one product: OpenBLAS starts threads above, which stall each other on a busy host


class Taps(NamedTuple):
    """One axis, n_in -> n_out: first input pixel int32 [n_out], weights int32 [n_out, taps], their precision."""

    first: np.ndarray
    weights: np.ndarray
    precision: int


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = -0.5 * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=64)
def taps(n_in: int, n_out: int) -> Taps:
    """Integer weights of an axis; rows are padded with zero weights to one number of taps, indices stay inside."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centre = scale * (np.arange(n_out) + 0.5)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), n_in)
    count = int((end - first).max())
    j = first[:, None] + np.arange(count)
    weights = np.where(j < end[:, None], _cubic((j - centre[:, None] + 0.5) / stretch), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    precision = 0
    while precision < MAX_PRECISION and int(0.5 + weights.max() * 2.0 ** (precision + 1)) < 2**WEIGHT_BITS:
        precision += 1
    fixed = np.trunc(weights * 2.0**precision + np.copysign(0.5, weights)).astype(np.int32)
    inside = np.minimum(first, n_in - count)  # window shifted left where it would leave the image
    shifted = np.zeros_like(fixed)
    for row, move in enumerate(first - inside):
        shifted[row, move:] = fixed[row, : count - move]
    return Taps(inside.astype(np.int32), shifted, precision)


def _half(precision: int) -> int:
    return 1 << precision - 1 if precision else 0


@functools.lru_cache(maxsize=64)
def _blocks(n_in: int, n_out: int) -> tuple[list[tuple[slice, slice, np.ndarray]], np.ndarray]:
    """(input slice, output slice, dense weights [inputs, outputs]) per block, and the offset of each output.

    Pixels enter as value - 128, so that all partial sums fit the 24 bits of float32 (else float64 is used) and the
    product is exact; the offset gives 128 x sum of weights back and holds the rounding half.
    """
    first, weights, precision = taps(n_in, n_out)
    exact = np.abs(weights).sum(axis=1).max() * 128 < 2**24
    blocks = []
    for start in range(0, n_out, BLOCK):
        out = slice(start, min(start + BLOCK, n_out))
        low, high = int(first[out].min()), int(first[out].max()) + weights.shape[1]
        dense = np.zeros((high - low, out.stop - start), np.float32 if exact else np.float64)
        rows = (first[out] - low)[:, None] + np.arange(weights.shape[1])
        dense[rows, np.arange(out.stop - start)[:, None]] = weights[out]
        blocks.append((slice(low, high), out, dense))
    offset = 128 * weights.sum(axis=1, dtype=np.int64) + _half(precision)
    return blocks, offset.astype(np.int32)


def _pass(rows: np.ndarray, n_out: int) -> np.ndarray:
    """uint8 rows [N, n_in] -> [N, n_out]."""
    count, n_in = rows.shape
    if n_in == n_out:
        return rows
    blocks, offset = _blocks(n_in, n_out)
    precision = taps(n_in, n_out).precision
    chunk = max(1, SMALL // max(dense.size for _, _, dense in blocks))
    centred = np.zeros((-(-count // chunk) * chunk, n_in), blocks[0][2].dtype)
    np.subtract(rows, 128, out=centred[:count], dtype=centred.dtype)
    centred = centred.reshape(-1, chunk, n_in)
    result = np.empty((count, n_out), np.uint8)
    for inputs, outputs, dense in blocks:
        sums = (centred[..., inputs] @ dense).reshape(-1, dense.shape[1])[:count]
        result[:, outputs] = np.clip((sums.astype(np.int32) + offset[outputs]) >> precision, 0, 255)
    return result


def _resize_one(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = _pass(image.transpose(2, 0, 1).reshape(-1, image.shape[1]), width)
    columns = rows.reshape(3, -1, width).transpose(0, 2, 1).reshape(-1, image.shape[0])
    return _pass(columns, height).reshape(3, width, height).transpose(2, 1, 0)


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [..., H, W, 3] -> uint8 [..., height, width, 3] in numpy; a pass with equal sizes is skipped."""
    flat = images.reshape(-1, *images.shape[-3:])
    result = np.empty((len(flat), height, width, 3), np.uint8)
    for image, target in zip(
        flat, result
    ):  # one at a time: twice as fast as all, since its planes stay in cache
        target[...] = _resize_one(image, height, width)
    return result.reshape(*images.shape[:-3], height, width, 3)


def _pass_jax(images, n_out, axis):
    n_in = images.shape[axis]
    if n_in == n_out:
        return images
    first, weights, precision = taps(n_in, n_out)
    shape = (-1,) + (1,) * (-axis - 1)

    def add(total, tap):
        offset, weight = tap
        pixels = jnp.take(images, first + offset, axis=axis).astype(jnp.int32)
        return total + pixels * weight.reshape(shape), None

    target = list(images.shape)
    target[axis % images.ndim] = n_out
    half = jnp.full(target, _half(precision), jnp.int32)
    total, _ = jax.lax.scan(add, half, (np.arange(weights.shape[1]), weights.T))
    return jnp.clip(total >> precision, 0, 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=(1, 2))
def resize_jax(images: jax.Array, height: int, width: int) -> jax.Array:
    """The same bits as `resize`, inside jit: uint8 [..., H, W, 3] -> uint8 [..., height, width, 3]."""
    return _pass_jax(_pass_jax(images, width, -2), height, -3)
