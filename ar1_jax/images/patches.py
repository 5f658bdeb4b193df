"""Pixels to patch rows as the vision tower reads them: normalised to -1 .. 1, cut into 16 x 16, ordered in 2 x 2.

P patches of an image, row order block rows, block columns, then 2 x 2 inside a block (the merger joins four
neighbours); columns channel, time, row, column. A still image fills both time slots of the temporal patch.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core import errors
from ar1_jax.images import bicubic

PATCH, MERGE, TEMPORAL = 16, 2, 2
FACTOR = PATCH * MERGE
MAX_ASPECT = 200
RELEASED_MIN_PIXELS, RELEASED_MAX_PIXELS = 163840, 196608
COLUMNS = 3 * TEMPORAL * PATCH * PATCH  # 1536


def target_size(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width, multiples of 32, with an area between the limits (smart_resize of the release)."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise errors.ImageError(
            f"image of {height} x {width}: sides differ by more than a factor {MAX_ASPECT}"
        )
    h, w = (round(side / FACTOR) * FACTOR for side in (height, width))  # halves to even
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h, w = (max(FACTOR, math.floor(side / shrink / FACTOR) * FACTOR) for side in (height, width))
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width))
    return h, w


def _check(shape: tuple[int, ...], dtype) -> None:
    problems = []
    if len(shape) < 3 or shape[-1] != 3:
        problems.append(f"shape {tuple(shape)}, expected [..., height, width, 3]")
    if dtype != np.uint8:
        problems.append(f"dtype {dtype}, expected uint8 (values 0 .. 255)")
    if problems:
        raise errors.ImageError("images: " + "; ".join(problems))


def patchify(images: jax.Array) -> jax.Array:
    """uint8 [..., H, W, 3], sides multiples of 32 -> float32 [..., P, 1536], P = H W / 256. Works inside jit."""
    _check(images.shape, images.dtype)
    *lead, height, width, _ = images.shape
    if height % FACTOR or width % FACTOR:
        raise errors.ImageError(
            f"images of {height} x {width}: both sides must be multiples of {FACTOR} to be cut"
        )
    return _patches(jnp.asarray(images))


@jax.jit
def _patches(images):
    *lead, height, width, _ = images.shape
    rows, columns = height // FACTOR, width // FACTOR
    x = (images.astype(jnp.float32) - 127.5) / 127.5
    x = x.reshape(-1, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # [n, block row, block column, 2, 2, channel, row, column]
    x = jnp.broadcast_to(x[..., None, :, :], (*x.shape[:6], TEMPORAL, PATCH, PATCH))
    return x.reshape(*lead, rows * columns * MERGE * MERGE, COLUMNS)


def preprocess(images: np.ndarray, min_pixels: int, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize and cut: uint8 [N, H, W, 3] -> pixel_values float32 [N P, 1536], grid int64 [N, 3] (time, rows, columns).

    The one path of training and inference (the release resizes in float when training). Errors: ImageError.
    """
    images = np.asarray(images)
    _check(images.shape, images.dtype)
    if images.ndim != 4:
        raise errors.ImageError(f"images: shape {images.shape}, expected [N, height, width, 3]")
    height, width = target_size(*images.shape[1:3], min_pixels, max_pixels)
    pixels = np.asarray(patchify(bicubic.resize(images, height, width)))
    grid = np.tile(np.array([1, height // PATCH, width // PATCH]), (len(images), 1))
    return pixels.reshape(-1, COLUMNS), grid
