"""Rotary positions: interleaved mRoPE of the text decoder and expert, 2-D rotary of the vision tower.

E head width. Tables are float32 (inference.md sections 2.4 and 3.2).
"""

import jax.numpy as jnp
import numpy as np


def frequencies(theta: float, count: int) -> np.ndarray:
    """theta^(-j/count) for j < count, float32 [count], rounded where the reference rounds (power, then reciprocal)."""
    exponent = (np.arange(count, dtype=np.float32) / np.float32(count)).astype(np.float64)
    return np.float32(1) / (theta**exponent).astype(np.float32)


def mrope_axes(section: tuple[int, int, int]) -> np.ndarray:
    """Which axis (0 t, 1 h, 2 w) each of the E/2 frequencies turns by: THW THW ... then T. int [E/2]."""
    axes = np.zeros(sum(section), np.int64)
    for axis in (1, 2):
        axes[axis : 3 * section[axis] : 3] = axis
    return axes


def mrope(positions, theta: float, section: tuple[int, int, int]):
    """positions int [3, ...] -> cos, sin float32 [..., E]."""
    half = sum(section)
    frequency = frequencies(theta, half)
    turned = jnp.moveaxis(positions[mrope_axes(section)], 0, -1).astype(jnp.float32) * frequency
    angle = jnp.concatenate([turned, turned], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def vision_rotary(rows, columns, head_dim: int, theta: float = 10_000.0):
    """Patch rows and columns, int [P] each -> cos, sin float32 [P, E]."""
    frequency = frequencies(theta, head_dim // 4)
    angle = jnp.concatenate([rows[:, None] * frequency, columns[:, None] * frequency], axis=-1)
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x, cos, sin):
    """x [..., heads, E] by cos, sin [..., E], in x's dtype: halves (x1, x2) -> (-x2, x1) times sin."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * cos[..., None, :].astype(x.dtype) + turned * sin[..., None, :].astype(x.dtype)
