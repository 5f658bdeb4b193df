"""The step against NumPy on the model's own logits, and what may and may not receive a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.core import trees
from ar1_jax.models import alpamayo
from ar1_jax.train import optimizer, step
from tests.train import tiny

BATCH, PARAMS = tiny.batch(), tiny.params()
HEAD = step.init_head(jax.random.key(1), 16, tiny.CLASSES)
RECIPE = step.Recipe(draws=2)
KNOBS = {"rate": jnp.float32(0.01), "cells": jnp.float32(0.5)}
TX = optimizer.adamw(step.trained(PARAMS, HEAD), b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0)
STEP = step.build(tiny.MODEL, tiny.RULES, RECIPE, tiny.encode, TX)
LOOK = step.examine(tiny.MODEL, tiny.RULES, RECIPE, tiny.encode, window=4)
KEY = jax.random.key(2)


def loss_and_grads(batch, flow=1.0):
    return compiled(batch, flow)


@jax.jit
def compiled(batch, flow):
    def loss(tree):
        recipe = step.Recipe(draws=2, flow=flow)
        return step.total_loss(tiny.MODEL, tiny.RULES, recipe, tiny.encode, tree, batch, KNOBS, KEY)

    return jax.value_and_grad(loss, has_aux=True)(step.trained(PARAMS, HEAD))


@jax.jit
def forward(batch):
    prefix = alpamayo.prefill(tiny.MODEL, PARAMS, tiny.encode(batch))
    hidden = alpamayo.completion_hidden(tiny.MODEL, PARAMS, prefix, batch["ids"][:, None])[:, 0]
    return alpamayo.logits(PARAMS, hidden), prefix.image_tokens


def model_logits(batch):
    return (np.asarray(x, np.float64) for x in forward(batch))


def legal(row):
    """Which ids may stand at each position of a completion: the grammar said in plain Python."""
    r, out, since = tiny.RULES, [], None
    for position, token in enumerate(row):
        if since is None:
            out.append([r.cot_end] if position >= r.reasoning else list(range(*r.words)))
        elif since == 1:
            out.append([r.trigger])
        elif since < 2 + 2 * r.controls:
            out.append(list(range(*r.actions[since % 2])))
        else:
            out.append([r.future_end])
        since = 1 if since is None and token == r.cot_end else since if since is None else since + 1
    return out


def test_loss_matches_numpy_on_the_models_logits():
    (loss, parts), _ = loss_and_grads(BATCH)
    logits, tokens = model_logits(BATCH)
    total = norm = decision = 0.0
    for b in range(tiny.B):
        for i, ids in enumerate(legal(BATCH["ids"][b])):
            if BATCH["weights"][b, i] > 0:
                scores = logits[b, i, ids]
                minus = np.log(np.exp(scores).sum()) - logits[b, i, BATCH["ids"][b, i]]
                total, norm = total + BATCH["weights"][b, i] * minus, norm + BATCH["weights"][b, i]
                decision += minus * BATCH["decision"][b, i] / tiny.B
    cells = tokens.reshape(tiny.B, 4, 16) @ np.asarray(HEAD["cells"]["kernel"], np.float64) - 3.0
    full = BATCH["cells"].astype(float)
    entropy = 5.0 * full * np.log1p(np.exp(-cells)) + (1 - full) * np.log1p(np.exp(cells))
    np.testing.assert_allclose(parts["tokens"], total / norm, rtol=1e-5)
    np.testing.assert_allclose(parts["decision"], decision, rtol=1e-5)
    np.testing.assert_allclose(parts["cells"], 0.1 * entropy.sum() / tiny.B, rtol=1e-5)
    np.testing.assert_allclose(loss, parts["tokens"] + 0.5 * parts["cells"] + parts["flow"], rtol=1e-6)


def norms(tree):
    return {name: float(jnp.linalg.norm(leaf)) for name, leaf in trees.flatten(tree).items()}


def test_the_expert_learns_from_stopped_caches_and_everything_else_from_tokens():
    _, whole = loss_and_grads(BATCH)
    _, without = loss_and_grads(BATCH, flow=0.0)
    for (name, norm), other in zip(norms(whole).items(), norms(without).values(), strict=True):
        if name.startswith("policy/vlm") or name.startswith("head"):
            assert norm == pytest.approx(other, rel=1e-5), name  # the flow loss adds nothing
            assert norm > 0, name
        else:
            assert other == 0.0 and (norm > 0 or "k_proj" in name or "k_norm" in name), name


def test_the_expert_reads_up_to_the_trigger_only():
    changed = dict(BATCH, ids=BATCH["ids"].copy())
    after = np.argmax(BATCH["ids"] == tiny.RULES.trigger, axis=1) + 1
    for row, first in enumerate(after):
        changed["ids"][row, first : first + 6] = np.tile([20, 24], 3)
    same = loss_and_grads(changed)[0][1]
    assert float(same["flow"]) == pytest.approx(float(loss_and_grads(BATCH)[0][1]["flow"]), rel=1e-6)
    assert float(same["tokens"]) != pytest.approx(float(loss_and_grads(BATCH)[0][1]["tokens"]), rel=1e-3)
    changed["ids"][:, 0] = 15  # a word of the reasoning is read
    assert float(loss_and_grads(changed)[0][1]["flow"]) != pytest.approx(float(same["flow"]), rel=1e-6)


def test_padding_and_batch_mates_do_not_count():
    pad = np.asarray(BATCH["weights"] == 0)
    assert pad.any()
    changed = dict(BATCH, ids=np.where(pad, 17, BATCH["ids"]))
    np.testing.assert_array_equal(loss_and_grads(changed)[0][0], loss_and_grads(BATCH)[0][0])


def test_ten_steps_lower_the_loss_and_a_bad_batch_changes_nothing_but_the_count():
    state, values = step.init_state(PARAMS, HEAD, TX), []
    for _ in range(10):
        state, metrics = STEP(state, BATCH, KNOBS, KEY)
        values.append(float(metrics["loss"]))
    assert values[-1] < 0.7 * values[0]
    before = jax.tree.map(np.array, state)
    bad = dict(BATCH, actions=np.full_like(BATCH["actions"], np.nan))
    state, metrics = STEP(state, bad, KNOBS, KEY)
    state, metrics = STEP(state, bad, KNOBS, KEY)
    assert int(metrics["stuck"]) == 2
    for old, new in zip(
        jax.tree.leaves((before.params, before.optimizer)), jax.tree.leaves((state.params, state.optimizer))
    ):
        np.testing.assert_array_equal(old, new)
    assert int(STEP(state, BATCH, KNOBS, KEY)[1]["stuck"]) == 0
    assert STEP._cache_size() == 1  # one compilation: a state comes out as it went in, weak types included


def test_frozen_towers_stay_and_cost_no_gradient():
    table = ((r"(policy/vlm|head)/.*", 0.0), (r".*", 1.0))
    tree = step.trained(PARAMS, HEAD)
    rates = optimizer.by_pattern(tree, table, "rates")
    tx = optimizer.adamw(tree, b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0, rates=rates)
    take = step.build(tiny.MODEL, tiny.RULES, RECIPE, tiny.encode, tx, rates)
    state, metrics = take(step.init_state(PARAMS, HEAD, tx), BATCH, KNOBS, KEY)
    (_, parts), grads = loss_and_grads(BATCH)
    for name in ("tokens", "cells", "flow"):  # the losses are still told
        np.testing.assert_allclose(metrics[name], parts[name], rtol=1e-5)
    moving = [g for path, g in trees.flatten(grads["policy"]).items() if not path.startswith("vlm")]
    np.testing.assert_allclose(
        metrics["gradient"], np.sqrt(sum(float((g**2).sum()) for g in moving)), rtol=1e-4
    )
    for path, end in trees.flatten(state.params).items():
        same = (np.asarray(end) == trees.flatten(PARAMS)[path]).all()
        assert same == path.startswith("vlm"), path


def test_examine_says_what_greedy_decoding_would_decide():
    logits, _ = model_logits(BATCH)
    seen = LOOK(PARAMS, HEAD, BATCH, KEY)
    for b in range(tiny.B):
        allowed = legal(BATCH["ids"][b])
        best = [max(ids, key=lambda k, b=b, i=i: logits[b, i, k]) for i, ids in enumerate(allowed)]
        right = all(best[i] == BATCH["ids"][b, i] for i in np.flatnonzero(BATCH["decision"][b]))
        assert bool(seen["right"][b]) == right
        assert seen["weight"][b] == BATCH["weights"][b].sum()
    favoured = dict(BATCH, ids=BATCH["ids"].copy())  # a completion made of the model's own choices is right
    for i in np.flatnonzero(BATCH["decision"][0])[:1]:
        favoured["ids"][0, i] = max(legal(BATCH["ids"][0])[i], key=lambda k: logits[0, i, k])
    favoured["decision"] = BATCH["decision"] & (np.arange(tiny.RULES.length) == 0)
    assert bool(LOOK(PARAMS, HEAD, favoured, KEY)["right"][0])
