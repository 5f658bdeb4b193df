"""The grammar of completions, position by position, against hand-written rows."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ar1_jax.models import grammar

# ids: 0 pad, 1 end of turn, 2 trigger, 3 future end, 4..6 accelerations, 7..9 curvatures, 10 <|cot_end|>, 11.. words
RULES = grammar.Grammar(words=(10, 14), cot_end=10, trigger=2, future_end=3, end_of_turn=1, pad=0,
                        actions=((4, 7), (7, 10)), controls=2, reasoning=3)  # fmt: skip
WHOLE = [11, 12, 10, 2, 4, 9, 5, 7, 3, 0]


def test_allowed_ids_follow_the_phases():
    want = [(10, 14), (10, 14), (10, 14), (2, 3), (4, 7), (7, 10), (4, 7), (7, 10), (3, 4), (3, 4)]
    np.testing.assert_array_equal(grammar.allowed(RULES, jnp.array(WHOLE)), want)


def test_reasoning_that_reaches_its_limit_must_end():
    ids = jnp.array([11, 12, 13, 10, 2, 4, 9, 5, 7, 3])
    np.testing.assert_array_equal(grammar.allowed(RULES, ids)[:5], [(10, 14)] * 3 + [(10, 11), (2, 3)])


def test_mask_ends_with_the_completion():
    np.testing.assert_array_equal(grammar.mask(RULES, jnp.array(WHOLE)), [1] * 9 + [0])
    free = dataclasses.replace(RULES, strict=False, controls=0)
    np.testing.assert_array_equal(grammar.mask(free, jnp.array([11, 2, 11, 1])), [1, 1, 0, 0])
    np.testing.assert_array_equal(grammar.mask(free, jnp.array([11, 1, 11, 2])), [1, 1, 0, 0])


def test_without_strict_the_actions_follow_the_trigger_wherever_it_stands():
    free = dataclasses.replace(RULES, strict=False, words=(10, 4))
    ids = jnp.array([11, 2, 4, 9, 5, 7, 3, 0])
    want = [(10, 4)] * 2 + [(4, 7), (7, 10), (4, 7), (7, 10), (3, 4), (3, 4)]
    np.testing.assert_array_equal(grammar.allowed(free, ids), want)
    np.testing.assert_array_equal(grammar.mask(free, ids), [1] * 7 + [0])


def test_since_goes_on_where_it_was_cut():
    ids = jnp.array(WHOLE)
    whole = RULES.since(jnp.zeros((), jnp.int32), ids)
    np.testing.assert_array_equal(whole, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    for cut in range(len(WHOLE)):
        np.testing.assert_array_equal(RULES.since(whole[cut], ids[cut:]), whole[cut:], err_msg=str(cut))


def test_action_ids_of_whole_and_of_malformed_completions():
    cases = {
        "whole": (WHOLE, True),
        "no trigger": ([11, 12, 10, 4, 9, 5, 7, 3, 0, 0], False),
        "three ids": ([11, 10, 2, 4, 9, 5, 3, 0, 0, 0], False),
        "five ids": ([11, 10, 2, 4, 9, 5, 7, 4, 3, 0], False),
        "channels swapped": ([11, 10, 2, 9, 4, 5, 7, 3, 0, 0], False),
        "a word among them": ([11, 10, 2, 4, 12, 5, 7, 3, 0, 0], False),
        "two triggers": ([2, 10, 2, 4, 9, 5, 7, 3, 0, 0], False),
        "cut short": ([11, 11, 11, 10, 2, 4, 9, 5, 7, 0], False),
    }
    taken, whole = grammar.action_ids(RULES, jnp.array([ids for ids, _ in cases.values()]))
    np.testing.assert_array_equal(taken[0], [4, 9, 5, 7])
    for name, got, (_, want) in zip(cases, whole, cases.values(), strict=True):
        assert bool(got) == want, name
