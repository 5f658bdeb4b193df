"""Losses of supervised fine-tuning, as functions on arrays.

B scenes, L suffix, N merged vision tokens (image cells), K flow draws, A controls.
Sources: token loss of the release `post_training.md` 2.3; flow matching: Alpamayo-R1 paper, equations 6-8, with the
time law of the released code (t = 0 is noise, t = 1 is data); cell loss: own recipe, see docs/results.md.
Log-probabilities come from `models.alpamayo.token_log_prob`: this file knows no logits.
"""

import jax
import jax.numpy as jnp

FLOW_TIME_SCALE = 0.999  # released FlowMatching: t = 0.999 (1 - u), so t never reaches the data end
FLOW_BETA = 1.5  # u ~ Beta(1.5, 1)
CELL_SCALE = 0.1  # brings a sum over some hundred cells and classes to the size of the token loss


def weighted_token_loss(log_prob, weights):
    """Mean of -log_prob [..., L] under weights [..., L] (0 = ignored), over everything; 0 if all weights are 0."""
    return -jnp.sum(weights * log_prob) / jnp.maximum(jnp.sum(weights), 1e-6)


def released_token_loss(log_prob, mask, trajectory):
    """Stage-1 loss of the release: mean over trajectory tokens + mean over the other labelled tokens.

    log_prob [..., L]; mask [..., L] bool, True = labelled; trajectory [..., L] bool, True = action id or one of
    its two delimiters. An empty set adds 0 (`post_training.md` 2.3).
    """

    def mean(chosen):
        return -jnp.sum(jnp.where(chosen, log_prob, 0.0)) / jnp.maximum(jnp.sum(chosen), 1)

    return mean(mask & trajectory) + mean(mask & ~trajectory)


def cell_loss(logits, cells, seen, positive_weight=5.0):
    """What is in this image cell: binary cross-entropy, summed over cells and classes, mean over scenes, / 10.

    logits f32 [B, N, classes]; cells [B, N, classes] in {0, 1}; seen [B] in {0, 1}: scenes whose pictures were
    shown. Positives count `positive_weight` times. Scenes not seen are left out of sum and count.
    """
    cells = cells.astype(jnp.float32)
    entropy = positive_weight * cells * jax.nn.softplus(-logits) + (1.0 - cells) * jax.nn.softplus(logits)
    scenes = jnp.sum(entropy, axis=(1, 2))
    return CELL_SCALE * jnp.sum(scenes * seen) / jnp.maximum(jnp.sum(seen), 1.0)


def cell_recall(logits, cells):
    """Cells [B, N, classes] found (logit > 0) and cells there, each f32 [classes]; recall is their ratio."""
    cells = cells.astype(jnp.float32)
    return jnp.sum((logits > 0) * cells, axis=(0, 1)), jnp.sum(cells, axis=(0, 1))


def flow_draws(key, actions, draws):
    """Noisy actions, times and velocity targets of flow matching.

    actions f32 [B, A, 2], normalised -> x f32 [B, K, A, 2] = t a + (1 - t) eps, tau f32 [B, K] in [0, 0.999],
    target f32 [B, K, A, 2] = a - eps, with K = `draws`. u ~ Beta(1.5, 1) by its inverse distribution function.
    """
    time_key, noise_key = jax.random.split(key)
    shape = (actions.shape[0], draws)
    u = jax.random.uniform(time_key, shape) ** (1.0 / FLOW_BETA)
    tau = FLOW_TIME_SCALE * (1.0 - u)
    noise = jax.random.normal(noise_key, (*shape, *actions.shape[1:]))
    data, t = actions[:, None], tau[..., None, None]
    return t * data + (1.0 - t) * noise, tau, data - noise


def flow_loss(velocity, target):
    """Mean squared error over all of [B, K, A, 2]; no weighting in time, waypoint or channel (as released)."""
    return jnp.mean(jnp.square(velocity - target))
