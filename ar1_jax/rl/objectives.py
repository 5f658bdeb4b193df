"""What the learner minimises, as functions of log-probabilities: pure, no model, no parameters.

B scenes, G completions of a scene, L tokens of a completion. `log_prob`, `old_log_prob`, `ref_log_prob` are
float32 [B, G, L] under the learner, the behaviour policy (the sampler) and the frozen reference, all three of
the processed distribution: same temperature, same allowed ids. `mask` bool [B, G, L] is True on sampled
tokens, whatever stands elsewhere is ignored. `advantages` and `weights` are [B, G].
Sources: the paper, section 5.3.1 (softmax-weighted likelihood with a KL term); PPO and GRPO arXiv 2402.03300;
dual clip 1912.09729; GSPO 2507.18071; CISPO 2506.13585; KL estimators 2512.21852.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Terms:
    """loss float32 []; metrics: name -> float32 [] (ratio_mean, clip_fraction, dual_clip_fraction, kl,
    ...)."""

    loss: jax.Array
    metrics: dict


def ratio(log_prob, old_log_prob):
    """[...] -> [...] exp(log_prob - old_log_prob), the difference held within +-20 against overflow."""
    return jnp.exp(jnp.clip(log_prob - old_log_prob, -20.0, 20.0))


def keep(values, mask):
    """values [...], mask bool [...] -> values where the mask is True, 0 elsewhere, also in the gradient."""
    return jnp.where(mask, values, 0.0)


# ---- aggregation -------------------------------------------------------------------------------------------


def _sequences(mask):
    return jnp.maximum(jnp.sum(jnp.any(mask, axis=-1)), 1)


def token_mean(values, mask, length):
    """Sum over all tokens divided by their number: long completions weigh more (DAPO, verl)."""
    return jnp.sum(keep(values, mask)) / jnp.maximum(jnp.sum(mask), 1)


def sequence_mean_token_mean(values, mask, length):
    """Mean over a completion's tokens, then over completions (GRPO): each token of a short one weighs
    more."""
    per_sequence = jnp.sum(keep(values, mask), -1) / jnp.maximum(jnp.sum(mask, -1), 1)
    return jnp.sum(per_sequence) / _sequences(mask)


def sequence_mean_token_sum(values, mask, length):
    """Sum over a completion's tokens, mean over completions: the log-probability of a sequence as the paper
    has it."""
    return jnp.sum(keep(values, mask)) / _sequences(mask)


def sequence_mean_token_sum_norm(values, mask, length):
    """As the sum, divided by one constant length (Dr.GRPO): no weight depends on a completion's length."""
    return jnp.sum(keep(values, mask)) / (_sequences(mask) * length)


AGGREGATIONS = {
    "token-mean": token_mean,
    "sequence-mean-token-mean": sequence_mean_token_mean,
    "sequence-mean-token-sum": sequence_mean_token_sum,
    "sequence-mean-token-sum-norm": sequence_mean_token_sum_norm,
}


def aggregate(name, values, mask, *, length=None):
    """values [B, G, L], mask bool [B, G, L] -> [] by the aggregation's name; completions without a token do
    not count.

    length: the constant of sequence-mean-token-sum-norm, L if None. Unknown names: ValueError listing the
    known.
    """
    if name not in AGGREGATIONS:
        raise ValueError(f"aggregation {name!r} is unknown; known: {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[name](values, mask, values.shape[-1] if length is None else length)


# ---- divergence from the reference -------------------------------------------------------------------------


def kl_k1(log_prob, ref_log_prob):
    """d: unbiased value, expected gradient zero. For logs and rewards, never a loss."""
    return log_prob - ref_log_prob


def kl_k2(log_prob, ref_log_prob):
    """d^2 / 2: biased value; on policy its expected gradient is that of KL(learner || reference)."""
    return 0.5 * (log_prob - ref_log_prob) ** 2


def kl_k3(log_prob, ref_log_prob):
    """exp(-d) - 1 + d >= 0: unbiased value, low variance. As a loss it would descend the forward KL: for logs
    only."""
    difference = ref_log_prob - log_prob
    return jnp.exp(difference) - 1.0 - difference


def kl_ratio_k3(log_prob, ref_log_prob):
    """k3 times learner / stop_gradient(learner): value of k3, expected gradient that of the reverse KL."""
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob)) * kl_k3(log_prob, ref_log_prob)


KL_LOSSES = {"k2": kl_k2, "ratio_k3": kl_ratio_k3}


def kl_loss(name, log_prob, ref_log_prob):
    """[B, G, L] twice -> [B, G, L] by name; only estimators whose gradient is the reverse KL's can be
    named."""
    if name not in KL_LOSSES:
        raise ValueError(
            f"KL loss {name!r} is refused; known: {', '.join(KL_LOSSES)} (k1 has no gradient and k3 the forward KL's)"
        )
    return KL_LOSSES[name](log_prob, ref_log_prob)


# ---- policy terms ------------------------------------------------------------------------------------------


def clipped_tokens(ratios, advantages, *, clip_low, clip_high, dual_clip):
    """ratios [..., L], advantages [..., 1] -> loss of each token, where the upper or lower clip acts, where
    dual clip.

    loss = -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A); where A < 0 at most -dual_clip A
    (dual_clip None or 0: off).
    """
    plain = -ratios * advantages
    bounded = -jnp.clip(ratios, 1.0 - clip_low, 1.0 + clip_high) * advantages
    losses = jnp.maximum(plain, bounded)
    clip_acts = bounded > plain
    if not dual_clip:
        return losses, clip_acts, jnp.zeros_like(clip_acts)
    cap = -dual_clip * advantages
    dual_acts = (advantages < 0) & (losses > cap)
    return jnp.where(dual_acts, cap, losses), clip_acts, dual_acts


def clipped(
    log_prob,
    old_log_prob,
    advantages,
    mask,
    *,
    clip_low=0.2,
    clip_high=0.28,
    dual_clip=3.0,
    aggregation="token-mean",
    length=None,
    correction=None,
):
    """Clipped GRPO. correction: token weights [B, G, L] of sampler_correction, or None."""
    ratios = ratio(log_prob, old_log_prob)
    losses, clip_acts, dual_acts = clipped_tokens(
        ratios, advantages[..., None], clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    if correction is not None:
        losses = losses * correction
    share = lambda flags: token_mean(flags.astype(jnp.float32), mask, None)
    metrics = {
        "ratio_mean": token_mean(ratios, mask, None),
        "clip_fraction": share(clip_acts),
        "dual_clip_fraction": share(dual_acts),
    }
    return Terms(aggregate(aggregation, losses, mask, length=length), metrics)


def sequence_clipped(log_prob, old_log_prob, advantages, mask, *, clip_low=3e-4, clip_high=4e-4):
    """GSPO: one ratio a completion, exp(mean over tokens of the log ratio), clipped; mean over
    completions."""
    tokens = jnp.maximum(jnp.sum(mask, -1), 1)
    ratios = jnp.exp(jnp.sum(keep(log_prob - old_log_prob, mask), -1) / tokens)
    losses, clip_acts, _ = clipped_tokens(
        ratios, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=None
    )
    present = jnp.any(mask, axis=-1)
    mean = lambda values: jnp.sum(keep(values, present)) / _sequences(mask)
    return Terms(
        mean(losses), {"ratio_mean": mean(ratios), "clip_fraction": mean(clip_acts.astype(jnp.float32))}
    )


def capped(log_prob, old_log_prob, advantages, mask, *, cap=2.0, aggregation="token-mean", length=None):
    """AIPO: -min(ratio, cap) A. cap is the bound itself, not an offset from 1."""
    ratios = ratio(log_prob, old_log_prob)
    losses = -jnp.minimum(ratios, cap) * advantages[..., None]
    above = token_mean((ratios > cap).astype(jnp.float32), mask, None)
    metrics = {"ratio_mean": token_mean(ratios, mask, None), "clip_fraction": above}
    return Terms(aggregate(aggregation, losses, mask, length=length), metrics)


def paper(log_prob, ref_log_prob, weights, mask, *, baseline=0.0, kl_coef=0.0, kl="k2",
          aggregation="sequence-mean-token-sum", length=None, old_log_prob=None):  # fmt: skip
    """The paper's objective as written: -E[w_i (log p(tau_i) - kl_coef KL(learner, reference)(tau_i))].

    weights [B, G] = softmax_weights(rewards, beta), summing to 1 in a group. The expectation is the weighted sum over a
    group and the mean over scenes; with the default aggregation log p and KL are sums over a completion's tokens.
    baseline [B, G] or scalar is taken from the weights of log p alone (1/G: same expected gradient on policy, less
    noise). There is no ratio and no clip; old_log_prob only feeds the logged ratio.
    """
    terms = -(weights - baseline)[..., None] * log_prob
    if kl_coef:
        terms = terms + kl_coef * weights[..., None] * kl_loss(kl, log_prob, ref_log_prob)
    # aggregate() averages over the G completions of a group, so a factor G goes back.
    loss = aggregate(aggregation, mask.shape[-2] * terms, mask, length=length)
    old = log_prob if old_log_prob is None else old_log_prob
    return Terms(
        loss, {"ratio_mean": token_mean(ratio(log_prob, old), mask, None), "clip_fraction": jnp.zeros(())}
    )


def sampler_correction(old_log_prob, sampler_log_prob, cap=None):
    """Two [B, G, L] -> token weights old / sampler (detached), 0 above cap: the decoupled loss of two
    engines."""
    weights = jax.lax.stop_gradient(ratio(old_log_prob, sampler_log_prob))
    return weights if cap is None else jnp.where(weights > cap, 0.0, weights)
