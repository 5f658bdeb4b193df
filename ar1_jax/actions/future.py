"""Future motion as ids: two a control, acceleration then curvature (paper section 5.1).

A controls, ... any leading axes. bins.py has the spacing of the bins, feedback.py the choice that tracks the motion.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.actions import bins, feedback, unicycle
from ar1_jax.actions import config as configs


def _offsets(c: configs.FutureCodecConfig) -> np.ndarray:
    return np.array([0, c.num_bins if c.separate else 0], np.int32)


def _pack(indices, c):
    ids = indices + _offsets(c)
    return ids.reshape(*ids.shape[:-2], -1)


def actions_to_ids(actions: Any, config: Any) -> jax.Array:
    """Actions [..., A, 2] -> int32 [..., 2A]: each control to its nearest bins."""
    c = configs.FutureCodecConfig.of(config)
    return _pack(bins.quantise(jnp.asarray(actions, jnp.float32), c), c)


def ids_to_actions(ids: Any, config: Any) -> jax.Array:
    """Ids [..., 2A] -> actions float32 [..., A, 2]; ids outside their channel's range are moved to its nearest end."""
    c = configs.FutureCodecConfig.of(config)
    indices = jnp.asarray(ids, jnp.int32).reshape(*np.shape(ids)[:-1], -1, 2) - _offsets(c)
    return bins.dequantise(jnp.clip(indices, 0, c.num_bins - 1), c)


def future_ids(
    history_xyz: Any, history_rot: Any, future_xyz: Any, future_rot: Any, config: Any
) -> jax.Array:
    """A motion (as unicycle_encode) -> int32 [..., 2A], acceleration and curvature in turn.

    Ids are 0 .. num_bins-1 for both, or num_bins .. 2 num_bins-1 for curvature where `separate`.
    """
    c = configs.FutureCodecConfig.of(config)
    motion = tuple(jnp.asarray(x, jnp.float32) for x in (history_xyz, history_rot, future_xyz, future_rot))
    if c.feedback:
        return _pack(feedback.track(*motion, c), c)
    return actions_to_ids(unicycle.unicycle_encode(*motion, c.action_space), c)


def decode_future_ids(
    ids: Any, history_xyz: Any, history_rot: Any, config: Any
) -> tuple[jax.Array, jax.Array]:
    """Ids [..., 2A] -> xyz float32 [..., 64, 3] m, rot [..., 64, 3, 3]."""
    c = configs.FutureCodecConfig.of(config)
    return unicycle.unicycle_decode(ids_to_actions(ids, c), history_xyz, history_rot, c.action_space)
