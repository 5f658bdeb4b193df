"""One update of the learner: a prefix a scene, G suffixes behind it, an objective, AdamW. State in, state
out.

B scenes, G completions, L tokens. A rollout's arrays are those of `rollout.Rollout`; log-probabilities are of
the distribution the sampler drew from: same grammar, same temperature, one function
(`models.alpamayo.token_log_prob`). Only sampled tokens count (`mask`): forced ids, padding and everything
behind a truncated end carry no gradient, and the prompt cannot, since it is no target at all.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ar1_jax.core import errors
from ar1_jax.models import alpamayo, grammar
from ar1_jax.rl import advantages, objectives
from ar1_jax.train import tuning

OBJECTIVES = ("paper", "clipped", "sequence_clipped", "capped")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is minimised. name: one of OBJECTIVES; beta: sharpness of the paper's weights; baseline: subtract their mean
    1/G, which changes no expected gradient on policy and takes out most of the noise; advantage: of
    advantages.

    ADVANTAGES (all but the paper's); kl_coef and kl: weight and estimator of the pull to the reference;
    temperature: the sampler's. cap: of "capped". length: constant of the aggregation by that name, 0 = L.
    """

    name: str = "paper"
    beta: float = 3.0
    baseline: bool = False
    advantage: str = "dr_grpo"
    std_floor: float = 0.05
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    cap: float = 2.0
    aggregation: str = "sequence-mean-token-sum"
    length: int = 0
    kl_coef: float = 0.05
    kl: str = "k2"
    temperature: float = 1.0

    def __post_init__(self):
        """ConfigError names a wrong name and the known ones, all at once."""
        known = {"name": OBJECTIVES, "advantage": tuple(advantages.ADVANTAGES), "kl": tuple(objectives.KL_LOSSES),
                 "aggregation": tuple(objectives.AGGREGATIONS)}  # fmt: skip
        problems = [
            f"{key}: unknown {getattr(self, key)!r}{errors.nearest(getattr(self, key), names)}; known: "
            + ", ".join(names)
            for key, names in known.items()
            if getattr(self, key) not in names
        ]
        if self.temperature <= 0:
            problems.append(
                f"temperature: {self.temperature} gives no samples to learn from; it must be above 0"
            )
        errors.raise_all(problems, "objective", errors.ConfigError)


@flax.struct.dataclass
class State:
    """params: what is trained; optimizer: its state. What is not here (rate, step, keys, base) is an argument."""

    params: dict
    optimizer: tuple


def init_state(params, optimizer):
    """A fresh State; the arrays are copied, since an update consumes its state."""
    params = jax.tree.map(jnp.array, params)
    return State(params, optimizer.init(params))


def score(model, rules, temperature, params, prompt, ids):
    """Log-probability and entropy float32 [B, G, L] of completions ids [B, G, L] behind their prompts."""
    prefix = alpamayo.prefill(model, params, prompt)
    hidden = alpamayo.completion_hidden(model, params, prefix, ids)
    allowed = grammar.allowed(rules, ids)
    return alpamayo.token_log_prob(params, hidden, ids, allowed, temperature, model.kernels)


def policy_terms(recipe, log_prob, ref_log_prob, rollout):
    """The objective without its model: [B, G, L] twice and a rollout -> objectives.Terms."""
    old, mask, length = rollout.log_prob, rollout.mask, recipe.length or None
    active = advantages.active_groups(rollout.rewards)[:, None]
    if recipe.name == "paper":
        mean = 1.0 / rollout.rewards.shape[-1]
        weights = jnp.where(active, advantages.softmax_weights(rollout.rewards, recipe.beta), mean)
        baseline = jnp.where(
            active & (not recipe.baseline), 0.0, mean
        )  # a skipped group keeps its KL term alone
        return objectives.paper(
            log_prob, ref_log_prob, weights, mask, baseline=baseline, kl_coef=recipe.kl_coef, kl=recipe.kl,
            aggregation=recipe.aggregation, length=length, old_log_prob=old,
        )  # fmt: skip
    advantage = advantages.advantages(recipe.advantage, rollout.rewards, std_floor=recipe.std_floor)
    advantage = jnp.where(active, advantage, 0.0)
    shape = {"aggregation": recipe.aggregation, "length": length}
    if recipe.name == "clipped":
        clip = {"clip_low": recipe.clip_low, "clip_high": recipe.clip_high, "dual_clip": recipe.dual_clip}
        terms = objectives.clipped(log_prob, old, advantage, mask, **clip, **shape)
    elif recipe.name == "sequence_clipped":
        clip = {"clip_low": recipe.clip_low, "clip_high": recipe.clip_high}
        terms = objectives.sequence_clipped(log_prob, old, advantage, mask, **clip)
    else:
        terms = objectives.capped(log_prob, old, advantage, mask, cap=recipe.cap, **shape)
    if not recipe.kl_coef:
        return terms
    pull = objectives.aggregate(
        recipe.aggregation, objectives.kl_loss(recipe.kl, log_prob, ref_log_prob), mask, length=length
    )
    return terms.replace(loss=terms.loss + recipe.kl_coef * pull)


def total_loss(model, rules, recipe, params, rollout, ref_log_prob):
    """Loss [] and metrics of one batch: what `build` differentiates."""
    mask = rollout.mask
    log_prob, entropy = score(model, rules, recipe.temperature, params, rollout.prompt, rollout.ids)
    # ids outside the mask may be ones the grammar forbids, with log-probabilities of -1e30: out before any
    # product
    log_prob, ref_log_prob, entropy = (objectives.keep(x, mask) for x in (log_prob, ref_log_prob, entropy))
    terms = policy_terms(recipe, log_prob, ref_log_prob, rollout)
    mean = lambda values: objectives.token_mean(values, mask, None)
    gap = jnp.where(mask, jnp.abs(log_prob - rollout.log_prob), 0.0)
    metrics = terms.metrics | {
        "loss": terms.loss,
        "kl": mean(objectives.kl_k3(log_prob, ref_log_prob)),
        "entropy": mean(entropy),
        "gap": mean(gap),
        "gap_max": jnp.max(gap),
    }
    return terms.loss, metrics


def freeze(params, trained):
    """params with stopped gradients where the tree `trained` is False: no backward pass is computed for them."""
    return jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trained)


def build(model, rules, recipe, optimizer, trained=None, join=tuning.everything):
    """-> jitted update(state, rollout, ref_log_prob, rate, base=None) -> state, metrics; it consumes `state` alone.

    trained: tree of bools like the state's parameters (None: all); the optimizer's own rates should agree with it.
    join(params, base) -> the model's parameters (`train.tuning`).
    optimizer: gradient transformation without the rate, `train.optimizer.adamw`. metrics: scalars; "gap" is
    the mean distance of learner and sampler log-probabilities, zero up to rounding at the first update of a
    batch. A gradient that is not finite changes nothing and shows as finite = 0.
    """

    def update(state, rollout, ref_log_prob, rate, base=None):
        moving = lambda params: params if trained is None else freeze(params, trained)
        whole = lambda params: join(moving(params), base)
        loss = lambda params: total_loss(model, rules, recipe, whole(params), rollout, ref_log_prob)
        grads, metrics = jax.grad(loss, has_aux=True)(state.params)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        updates, after = optimizer.update(grads, state.optimizer, state.params)
        moved = jax.tree.map(lambda p, u: p - (rate * u).astype(p.dtype), state.params, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        new = State(keep(moved, state.params), keep(after, state.optimizer))
        return new, metrics | {"gradient": norm, "finite": finite.astype(jnp.float32)}

    return jax.jit(update, donate_argnums=0)


def build_score(model, rules, temperature):
    """-> jitted (params, prompt, ids) -> log_prob [B, G, L]: the frozen reference's view of a rollout."""
    return jax.jit(lambda params, prompt, ids: score(model, rules, temperature, params, prompt, ids)[0])
