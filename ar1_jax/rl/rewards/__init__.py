"""Rewards by name, and their weighted sum. One file each: `reward(outcome, truth) -> float32 [B, G]` and
BOUNDS.

To add one: a file beside these, a row in REWARDS, a weight in configs/rl.py, a test that it is bounded and
monotone.
"""

import jax.numpy as jnp

from ar1_jax.rl.rewards import consistency, reasoning, trajectory

REWARDS = {"reasoning": reasoning, "consistency": consistency, "trajectory": trajectory}
FLOOR_MARGIN = 0.25  # how far an invalid completion lies below the worst valid one


def check_weights(weights):
    """{name: weight >= 0} -> the same; ValueError on an unknown name, a negative weight, or nothing to
    earn."""
    unknown = sorted(set(weights) - set(REWARDS))
    if unknown:
        raise ValueError(f"reward {', '.join(unknown)} unknown; known: {', '.join(sorted(REWARDS))}")
    negative = [name for name, weight in weights.items() if weight < 0]
    if negative or not sum(weights.values()):
        raise ValueError(f"reward weights must be >= 0 and not all 0, got {dict(weights)}")
    return weights


def floor(weights):
    """{name: weight} -> what every invalid completion gets, strictly below anything a valid one can get."""
    return sum(weight * REWARDS[name].BOUNDS[0] for name, weight in weights.items()) - FLOOR_MARGIN


def combine(outcome, truth, weights):
    """outcomes.Outcome, outcomes.Truth, {name: weight} -> total float32 [B, G], {name: unweighted part [B,
    G]}.

    An invalid completion's total is the floor and its parts are their lower bounds.
    """
    valid = outcome.valid
    parts = {
        name: jnp.where(valid, REWARDS[name].reward(outcome, truth), REWARDS[name].BOUNDS[0])
        for name in REWARDS
    }
    total = sum(weight * parts[name] for name, weight in weights.items())
    return jnp.where(valid, total, floor(weights)).astype(jnp.float32), parts
