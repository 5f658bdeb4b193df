"""Reasoning against the world's truth: how much of what was said is right, in [0, 1].

The paper grades 0 to 5 with a large model: same behaviour, then causes right and observable. Here the truth
is known, so the grade is counted: each channel's decision, then the cause's kind, then its attributes. A
cause earns in proportion to the channels that are right: the reason for a wrong decision explains nothing.
"""

import jax.numpy as jnp

BOUNDS = (0.0, 1.0)
DECISIONS, KIND, ATTRIBUTES = 0.6, 0.2, 0.2  # shares of the grade; the two channels share the first equally


def grade(longitudinal_right, lateral_right, kind_right, attributes_right):
    """Four float or bool [B, G] in [0, 1] (shares that are right) -> [B, G] in [0, 1], non-decreasing in
    each."""
    channels = 0.5 * (jnp.asarray(longitudinal_right, jnp.float32) + jnp.asarray(lateral_right, jnp.float32))
    kind = jnp.asarray(kind_right, jnp.float32)
    return DECISIONS * channels + channels * kind * (KIND + ATTRIBUTES * attributes_right)


def parts(outcome, truth):
    """Outcome, Truth -> the four arguments of grade, [B, G].

    A cause row is (kind, side, distance bucket). The side is right or wrong; a distance one bucket off is
    half right. An attribute counts where the truth or the text has one; where neither has any, the kind
    decides alone.
    """
    said, true = outcome.cause, truth.cause[:, None]
    asked = (said >= 0) | (true >= 0)
    both = (said >= 0) & (true >= 0)
    side = (said == true)[..., 1].astype(jnp.float32)
    distance = jnp.maximum(1.0 - 0.5 * jnp.abs(said - true)[..., 2], 0.0) * both[..., 2]
    count = jnp.sum(asked[..., 1:], axis=-1)
    right = (side * asked[..., 1] + distance * asked[..., 2]) / jnp.maximum(count, 1)
    return (
        outcome.longitudinal == truth.longitudinal[:, None],
        outcome.lateral == truth.lateral[:, None],
        (said == true)[..., 0],
        jnp.where(count > 0, right, 1.0),
    )


def reward(outcome, truth):
    """outcomes.Outcome, outcomes.Truth -> float32 [B, G] in [0, 1]; unparsable channels earn nothing."""
    return grade(*parts(outcome, truth))
