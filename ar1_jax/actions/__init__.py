"""Trajectories as controls and as ids: unicycle.py, history.py, future.py, meta_actions.py.

Configs are the dataclasses of config.py or the dicts of a checkpoint's config.json.
"""

from ar1_jax.actions.config import (
    FutureCodecConfig,
    HistoryCodecConfig,
    UnicycleConfig,
    nano_future,
    nano_history,
    nano_unicycle,
)
from ar1_jax.actions.future import actions_to_ids, decode_future_ids, future_ids, ids_to_actions
from ar1_jax.actions.history import decode_history_ids, history_ids
from ar1_jax.actions.unicycle import (
    controls_of,
    initial_speed,
    unicycle_decode,
    unicycle_encode,
    within_bounds,
)

__all__ = [
    "FutureCodecConfig",
    "HistoryCodecConfig",
    "UnicycleConfig",
    "actions_to_ids",
    "controls_of",
    "decode_future_ids",
    "decode_history_ids",
    "future_ids",
    "history_ids",
    "ids_to_actions",
    "initial_speed",
    "nano_future",
    "nano_history",
    "nano_unicycle",
    "unicycle_decode",
    "unicycle_encode",
    "within_bounds",
]
