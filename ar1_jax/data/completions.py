"""What the policy should say: truth written as a completion, with the weight of each token in the loss.

    reasoning <|cot_end|> <|traj_future_start|> 2A action ids <|traj_future_end|> padding

B samples, L = the grammar's longest completion, A controls. The reasoning starts behind the prompt's <|cot_start|>;
its decision is what stands before the colon ("Stop, keep lane: ..."), see `text/coc.py`.
"""

from typing import NamedTuple

import numpy as np

from ar1_jax.core import errors


class Completions(NamedTuple):
    """ids int32 [B, L]; weights f32 [B, L], 0 in the padding; decision bool [B, L], words that name the decision."""

    ids: np.ndarray
    weights: np.ndarray
    decision: np.ndarray


def build(vocabulary, rules, texts, actions, decision_weight=4.0):
    """B texts and action ids int [B, 2A] of the future codec (counted from 0) -> Completions.

    vocabulary: text.vocabulary.Vocabulary; rules: models.grammar.Grammar. Decision tokens weigh `decision_weight`,
    every other token 1. DataError names texts that hold unknown words or are longer than the grammar allows.
    """
    rows = [vocabulary.encode_user(text) for text in texts]
    check(vocabulary, rules, texts, rows)
    colon = vocabulary.encode_user(":")[0]
    comma = vocabulary.encode_user(",")[0]
    shape = (len(texts), rules.length)
    ids = np.full(shape, rules.pad, np.int32)
    weights, decision = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, words in enumerate(rows):  # host side, once a scene
        tail = [rules.cot_end, rules.trigger, *(actions[row] + vocabulary.ids.trajectory), rules.future_end]
        ids[row, : len(words) + len(tail)] = words + tail
        weights[row, : len(words) + len(tail)] = 1.0
        end = words.index(colon) if colon in words else len(words)
        decision[row, :end] = [word != comma for word in words[:end]]
    return Completions(ids, np.where(decision, decision_weight * weights, weights), decision)


def check(vocabulary, rules, texts, rows):
    """Raises DataError listing up to five texts that the vocabulary or the grammar does not let the policy say."""
    wrong = []
    for text, words, back in zip(texts, rows, vocabulary.decode_batch(rows), strict=True):
        if back != text:
            wrong.append(f"{text!r}: reads back as {back!r}, so it holds words that the vocabulary lacks")
        elif len(words) > rules.reasoning:
            wrong.append(f"{text!r}: {len(words)} tokens, at most {rules.reasoning} are allowed")
    errors.raise_all(
        wrong[:5], f"completions: {len(wrong)} of {len(texts)} texts cannot be said", errors.DataError
    )
