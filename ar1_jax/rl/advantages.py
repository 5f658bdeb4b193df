"""Rewards of a group to advantages or weights.

B scenes, G completions of a scene. Rewards and results are float32 [B, G]; the group is the last axis.
Sources: GRPO arXiv 2402.03300, Dr.GRPO arXiv 2503.20783, RLOO arXiv 2402.14740; the paper's objective has
A = r - mean(r) and w = softmax(beta A), with no division by the deviation.
Rewards are finite here: the loop stops on a NaN before it comes this far.
"""

import jax
import jax.numpy as jnp


def centred(rewards):
    """rewards [B, G] -> [B, G] reward minus the group's mean (Dr.GRPO, and the paper's A)."""
    return rewards - jnp.mean(rewards, axis=-1, keepdims=True)


def normalised(rewards, *, std_floor=0.05, ddof=0):
    """rewards [B, G] -> [B, G] (r - mean) / max(std, std_floor).

    The floor keeps hair's-breadth differences small: without it eleven equal rewards and one 1e-5 higher
    give an advantage of 2.4 (GRPO divides by std + 1e-6).
    """
    deviation = jnp.std(rewards, axis=-1, keepdims=True, ddof=ddof)
    return centred(rewards) / jnp.maximum(deviation, std_floor)


def batch_normalised(rewards, *, std_floor=0.05):
    """rewards [B, G] -> [B, G] group-centred, divided by one deviation of the whole batch (Flow-GRPO's
    remedy)."""
    values = centred(rewards)
    return values / jnp.maximum(jnp.sqrt(jnp.mean(values**2)), std_floor)


def leave_one_out(rewards):
    """rewards [B, G], G >= 2 -> [B, G] reward minus the mean of the others (RLOO)."""
    group = rewards.shape[-1]
    return centred(rewards) * (group / (group - 1))


ADVANTAGES = {
    "grpo": lambda rewards, std_floor: normalised(rewards, std_floor=std_floor),
    "grpo_unbiased_std": lambda rewards, std_floor: normalised(rewards, std_floor=std_floor, ddof=1),
    "batch_std": lambda rewards, std_floor: batch_normalised(rewards, std_floor=std_floor),
    "dr_grpo": lambda rewards, std_floor: centred(rewards),
    "rloo": lambda rewards, std_floor: leave_one_out(rewards),
}


def advantages(name, rewards, *, std_floor=0.05):
    """name of ADVANTAGES, rewards [B, G] -> [B, G]. An unknown name is a ValueError that lists the known
    ones."""
    if name not in ADVANTAGES:
        raise ValueError(f"advantage {name!r} is unknown; known: {', '.join(sorted(ADVANTAGES))}")
    return ADVANTAGES[name](rewards, std_floor)


def softmax_weights(rewards, beta):
    """rewards [B, G] -> [B, G] exp(beta A) / sum over the group: the paper's weights, positive, summing to
    1."""
    return jax.nn.softmax(beta * centred(rewards), axis=-1)


def active_groups(rewards, tolerance=1e-4):
    """rewards [B, G] -> bool [B], False where the group's rewards are all equal: it teaches nothing and is
    skipped."""
    return (jnp.max(rewards, axis=-1) - jnp.min(rewards, axis=-1)) > tolerance
