"""One step of supervised fine-tuning: one program, state in, state out.

B scenes, L completion, D width, N image tokens a scene, K flow draws, A controls.
A batch is a dict: what `encode` reads (images, camera ids, history), ids int32 [B, L] (the completion, padded),
weights f32 [B, L] (of each token in the loss, 0 = padding), decision bool [B, L] (tokens that name the decision),
actions f32 [B, A, 2] (normalised), cells [B, N, classes] (what lies in each image token's cell), seen f32 [B].
The prefix is read once; completion, cell head and K flow draws share it. The expert reads prefix and completion up
to the trigger through stopped gradients (the knowledge insulation of the paper, D; `post_training.md` 2.4).
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ar1_kernels.linear_log_prob import inside

from ar1_jax.models import alpamayo, grammar
from ar1_jax.train import losses, tuning

CELL_BIAS = -3.0  # of a fresh head: nearly all cells are empty


@dataclasses.dataclass(frozen=True)
class Recipe:
    """draws: K flow draws a scene (0: the expert is not trained); flow: its weight; positives: weight of a full cell;

    token_loss: "weighted" (by the batch's weights) or "released" (two means, `post_training.md` 2.3); strict:
    log-probabilities under the sampler's grammar, as in sampling and RL; False: over the whole vocabulary, as released.
    """

    draws: int = 4
    flow: float = 1.0
    positives: float = 5.0
    token_loss: str = "weighted"
    strict: bool = True


@flax.struct.dataclass
class State:
    """params: what is trained of the policy; head: the cell head, dropped after training; optimizer: of both;

    stuck: i32 [], steps in a row whose gradient was not finite.
    """

    params: dict
    head: dict
    optimizer: tuple
    stuck: jax.Array


def init_head(key, width, classes):
    """Dense [width, classes] that reads an image token: small kernel, bias CELL_BIAS."""
    kernel = jax.random.normal(key, (width, classes)) / math.sqrt(width)
    return {"cells": {"kernel": kernel, "bias": jnp.full((classes,), CELL_BIAS, jnp.float32)}}


def trained(params, head):
    """The tree the optimiser sees."""
    return {"policy": params, "head": head}


def init_state(params, head, optimizer):
    """A fresh State; the arrays are copied, since a step consumes its state."""
    params, head = jax.tree.map(jnp.array, (params, head))
    return State(params, head, optimizer.init(trained(params, head)), jnp.zeros((), jnp.int32))


def read(model, rules, recipe, encode, params, head, batch):
    """Prefix, completion and cell logits of a batch: the forward pass that training and validation share.

    -> prefix, suffix cache [layers, B, 1, L, J, E], hidden f32 [B, L, D], log_prob f32 [B, L] (0 where the weight
    is), cell logits f32 [B, N, classes].
    """
    prefix = alpamayo.prefill(model, params, encode(batch))
    hidden, suffix = alpamayo.completion(model, params, prefix, batch["ids"][:, None])
    hidden = hidden[:, 0]
    allowed = grammar.allowed(rules, batch["ids"]) if recipe.strict else None
    log_prob, _ = alpamayo.token_log_prob(params, hidden, batch["ids"], allowed, kernels=model.kernels)
    log_prob = jnp.where(batch["weights"] > 0, log_prob, 0.0)
    tokens = prefix.image_tokens.reshape(len(batch["ids"]), -1, prefix.image_tokens.shape[-1])
    logits = tokens.astype(jnp.float32) @ head["cells"]["kernel"] + head["cells"]["bias"]
    return prefix, suffix, hidden, log_prob, logits


def flow_error(model, rules, params, batch, prefix, suffix, key, draws):
    """Flow-matching loss of K = `draws` draws a scene over the stopped caches."""
    prefix, suffix = jax.lax.stop_gradient((prefix, suffix))
    x, tau, target = losses.flow_draws(key, batch["actions"], draws)
    length, _ = grammar.trigger_length(rules, batch["ids"])
    length = jnp.broadcast_to(length[:, None], tau.shape)
    suffix = jax.tree.map(lambda c: jnp.broadcast_to(c, (*c.shape[:2], draws, *c.shape[3:])), suffix)
    return losses.flow_loss(alpamayo.flow_velocity(model, params, prefix, suffix, length, x, tau), target)


def token_loss(rules, recipe, batch, log_prob):
    """The token loss that the recipe names."""
    if recipe.token_loss == "weighted":
        return losses.weighted_token_loss(log_prob, batch["weights"])
    trajectory = (jnp.cumsum(batch["ids"] == rules.trigger, axis=-1) > 0) & (batch["weights"] > 0)
    return losses.released_token_loss(log_prob, batch["weights"] > 0, trajectory)


def total_loss(model, rules, recipe, encode, tree, batch, knobs, key):
    """Loss and its parts, each a scalar, of one batch; tree as in `trained`."""
    params, head = tree["policy"], tree["head"]
    prefix, suffix, _, log_prob, logits = read(model, rules, recipe, encode, params, head, batch)
    tokens = token_loss(rules, recipe, batch, log_prob)
    cells = losses.cell_loss(logits, batch["cells"], batch["seen"], recipe.positives)
    decision = -jnp.sum(log_prob * batch["decision"]) / len(batch["ids"])
    loss, parts = tokens + knobs["cells"] * cells, {"tokens": tokens, "cells": cells, "decision": decision}
    if recipe.draws:
        parts["flow"] = flow_error(model, rules, params, batch, prefix, suffix, key, recipe.draws)
        loss = loss + recipe.flow * parts["flow"]
    return loss, parts | {"loss": loss}


def build(model, rules, recipe, encode, optimizer, rates=None, join=tuning.everything):
    """The jitted step(state, batch, knobs, key, base=None) -> state, metrics; it consumes `state`, not `base`.

    encode(batch) -> models.alpamayo.Prompt; knobs: f32 scalars "rate" and "cells". rates: the tree of multipliers
    (optimizer.by_pattern); where it is 0 no gradient is computed, so that a frozen tower costs no backward pass.
    join(params, base) -> the model's parameters (tuning.py). A step whose gradient is not finite changes nothing but
    `stuck`.
    """

    def moving(tree):
        return (
            tree
            if rates is None
            else jax.tree.map(lambda p, r: p if r else jax.lax.stop_gradient(p), tree, rates)
        )

    def step(state, batch, knobs, key, base=None):
        def loss(tree):
            tree = moving(tree)
            whole = trained(join(tree["policy"], base), tree["head"])
            return total_loss(model, rules, recipe, encode, whole, batch, knobs, key)

        tree = trained(state.params, state.head)
        grads, metrics = jax.grad(loss, has_aux=True)(tree)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        updates, after = optimizer.update(grads, state.optimizer, tree)
        moved = jax.tree.map(lambda p, u: p - (knobs["rate"] * u).astype(p.dtype), tree, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        tree, after = keep(moved, tree), keep(after, state.optimizer)
        stuck = jnp.where(finite, 0, state.stuck + 1)
        return State(tree["policy"], tree["head"], after, stuck), metrics | {"gradient": norm, "stuck": stuck}

    return jax.jit(step, donate_argnums=0)


def examine(model, rules, recipe, encode, window):
    """The jitted teacher-forced look(params, head, batch, key) -> dict of per-scene arrays for validation.

    tokens, decision: summed -log_prob f32 [B]; weight: sum of weights; right: bool [B], greedy decoding would write
    the true decision (all of its tokens are the most likely ones; they lie in the first `window` positions); actions:
    mean -log_prob of the tokens behind the trigger; flow: the loss of 4 draws, f32 [] (all scenes);
    found, there: f32 [classes], cells by class.
    """

    def look(params, head, batch, key):
        prefix, suffix, hidden, log_prob, logits = read(model, rules, recipe, encode, params, head, batch)
        ids, near = batch["ids"][:, :window], batch["decision"][:, :window]
        scores = alpamayo.logits(params, hidden[:, :window])
        legal = inside(jnp.arange(scores.shape[-1]), grammar.allowed(rules, ids))
        greedy = jnp.argmax(jnp.where(legal, scores, -jnp.inf), axis=-1)
        length, _ = grammar.trigger_length(rules, batch["ids"])
        acting = (jnp.arange(batch["ids"].shape[-1]) >= length[:, None]) & (batch["weights"] > 0)
        found, there = losses.cell_recall(logits, batch["cells"])
        out = {
            "tokens": -jnp.sum(log_prob * batch["weights"], axis=-1),
            "weight": jnp.sum(batch["weights"], axis=-1),
            "decision": -jnp.sum(log_prob * batch["decision"], axis=-1),
            "right": jnp.all((greedy == ids) | ~near, axis=-1),
            "actions": -jnp.sum(jnp.where(acting, log_prob, 0.0), axis=-1) / jnp.sum(acting, axis=-1),
            "found": found,
            "there": there,
        }
        if recipe.draws:
            out["flow"] = flow_error(model, rules, params, batch, prefix, suffix, key, 4)
        return out

    return jax.jit(look)
