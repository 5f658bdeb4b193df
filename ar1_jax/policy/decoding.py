"""Completions back to meaning: reasoning texts, trajectories of action ids.

K completions (any leading axes in the array functions), L ids, A controls, W = 64 waypoints.
"""

import numpy as np

from ar1_jax import actions
from ar1_jax.models import grammar as grammars
from ar1_jax.policy.config import PolicyConfig
from ar1_jax.text.vocabulary import Vocabulary, between


def reasonings(config: PolicyConfig, vocabulary: Vocabulary, ids) -> list[str]:
    """The reasoning of each completion ids int [..., L], flattened in row order; empty where <|cot_end|> is missing.

    The prompt ends in <|cot_start|>, so the text between them starts with the completion.
    """
    rows = np.asarray(ids).reshape(-1, np.shape(ids)[-1])
    texts = vocabulary.decode_batch(rows)
    return [between("<|cot_start|>" + text, "cot") for text in texts]


def token_trajectories(config: PolicyConfig, ids, history_xyz, history_rot):
    """Trajectories of completions with action ids: xyz [B, G, 64, 3], rot [B, G, 64, 3, 3], valid bool [B, G].

    ids: int [B, G, L]; history_xyz [B, 16, 3]. An invalid completion gets some finite trajectory and valid False.
    """
    rules = config.grammar("tokens")
    taken, valid = grammars.action_ids(rules, ids)
    bins = taken - config.ids.trajectory
    top = config.future.num_bins * (2 if config.future.separate else 1)
    group = ids.shape[1]
    repeat = lambda x: x[:, None].repeat(group, axis=1)
    xyz, rot = actions.decode_future_ids(
        bins.clip(0, top - 1), repeat(history_xyz), repeat(history_rot), config.future
    )
    return xyz, rot, valid
