"""Training adapters on a base: what is held, what is computed, that it learns, and that it resumes bit for bit."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors, trees
from ar1_jax.models import lora
from ar1_jax.train import loop, optimizer, schedule, step, tuning
from tests.train import test_loop, tiny

BATCH, PARAMS = tiny.batch(), tiny.params()
HEAD = step.init_head(jax.random.key(1), 16, tiny.CLASSES)
RECIPE = step.Recipe(draws=2)
KNOBS = {"rate": jnp.float32(0.03), "cells": jnp.float32(0.5)}
KEY = jax.random.key(2)
TARGETS = ("vlm/model/language_model/layers/.*_proj", "expert/layers/.*_proj")


def begin(params=PARAMS, rank=3, targets=TARGETS):
    settings = ml_collections.ConfigDict({"rank": rank, "alpha": 6.0, "targets": targets})
    return tuning.begin(settings, params, jax.random.key(3), "nano")


def machine(tuned, table=((r".*", 1.0),)):
    """Optimiser and jitted step, put together as the verb does."""
    rates = optimizer.by_pattern(step.trained(PARAMS, HEAD), table, "rates")
    rates = step.trained(tuned.rates(rates["policy"]), rates["head"])
    tree = step.trained(tuned.params, HEAD)
    tx = optimizer.adamw(tree, b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0, rates=rates)
    return tx, step.build(tiny.MODEL, tiny.RULES, RECIPE, tiny.encode, tx, rates, tuned.join)


LOW, FULL = begin(), begin(rank=0)
TX, STEP = machine(LOW)


def products(jaxpr):
    """Shapes of every matrix product in a program, those inside scans and branches too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


def kernel_products(tuned):
    """How many products of a step have the shape of a kernel of the base: those that make its gradient."""
    tx, take = machine(tuned)
    state = step.init_state(tuned.params, HEAD, tx)
    program = jax.make_jaxpr(take)(state, BATCH, KNOBS, KEY, tuned.base)
    kernels = {leaf.shape[-2:] for path, leaf in trees.flatten(PARAMS).items() if path.endswith("kernel")}
    kernels |= {shape[::-1] for shape in kernels}
    return sum(shape in kernels for shape in products(program.jaxpr))


def test_only_adapters_have_gradients_and_optimiser_state():
    assert kernel_products(FULL) > 20 and kernel_products(LOW) == 0
    held = trees.num_bytes(TX.init(step.trained(LOW.params, HEAD)))
    own = trees.num_bytes(LOW.params) + trees.num_bytes(HEAD)
    assert 2 * own <= held <= 2 * own + 8  # two moments and a counter
    tx, _ = machine(FULL)
    assert trees.num_bytes(tx.init(step.trained(PARAMS, HEAD))) > 2 * trees.num_bytes(PARAMS) > 5 * held
    assert LOW.base is PARAMS  # not a copy


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_ten_steps_lower_the_loss_on_a_base_that_stands_still(dtype):
    base = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    before, state, values = jax.tree.map(np.array, base), step.init_state(LOW.params, HEAD, TX), []
    for _ in range(10):
        state, metrics = STEP(state, BATCH, KNOBS, KEY, base)
        values.append(float(metrics["tokens"]))
    assert values[-1] < 0.8 * values[0], values
    jax.tree.map(np.testing.assert_array_equal, base, before)  # not donated, not moved
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.params))


def run(disk, state, progress):
    take = lambda *arguments: STEP(*arguments, LOW.base)
    return test_loop.run(disk, test_loop.SETTINGS, state, progress, take=take)[0]


def test_a_run_with_adapters_resumes_bit_for_bit(tmp_path):
    """Six steps at once against three, what lies on disk after them, and three more in its place."""
    fresh = lambda: step.init_state(LOW.params, HEAD, TX)
    whole, again = test_loop.Disk(), test_loop.Disk()
    final = run(whole, fresh(), loop.Progress(schedule.Plan(total=6, warmup=2, floor=0.05)))
    state, text = whole.saved[0]
    items = lambda state: {"params": state.params, "optimizer": {"adam": state.optimizer, "head": state.head}}
    runs.save(tmp_path, 3, items(state))
    assert trees.flatten(runs.load_params(tmp_path)).keys() == trees.flatten(LOW.params).keys()
    found, half = runs.restore(tmp_path, items(fresh())), runs.load_params(tmp_path)
    state = step.State(found.params, found.optimizer["head"], found.optimizer["adam"], jnp.int32(0))
    resumed = run(again, state, loop.Progress.from_dict(test_loop.json.loads(text)))
    for (path, want), got in zip(trees.flatten(final).items(), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(got, want, err_msg=path)
    assert whole.logged[-1][1] == again.logged[-1][1]
    assert all((got != want).any() for got, want in zip(jax.tree.leaves(final.params), jax.tree.leaves(half)))


def test_an_adapter_learns_at_the_rate_of_its_kernel():
    table = ((r"policy/expert/layers/mlp/.*", 0.5), (r".*kernel", 1.0), (r".*", 0.1))
    rates = optimizer.by_pattern(step.trained(PARAMS, HEAD), table, "rates")["policy"]
    found = trees.flatten(LOW.rates(rates))
    assert found["expert/layers/mlp/up_proj/lora_b"] == 0.5
    assert found["expert/layers/self_attn/q_proj/lora_a"] == 1.0
    still = jax.tree.map(lambda rate: 0.0 if rate == 0.5 else rate, rates)
    with pytest.raises(errors.ConfigError) as caught:
        LOW.rates(still)
    assert "expert/layers/mlp/up_proj" in str(caught.value) and "self_attn" not in str(caught.value)


def test_another_base_or_scale_is_refused(tmp_path):
    def resume(saved, own):
        loop_ = {"step": 1} | ({} if saved is None else {"lora": saved})
        runs.save(tmp_path, 1, {"params": LOW.params, "loop": loop_})
        return tuning.restore(tmp_path, {"params": LOW.params}, own)

    assert resume(LOW.record, begin().record).step == 1 and FULL.record is None
    assert resume(None, None).step == 1
    other = begin(jax.tree.map(lambda x: x + 1, PARAMS)).record
    for saved, words in (
        (other, "lora.checksum was"),
        (LOW.record | {"alpha": 1.0}, "lora.alpha was 1.0, is 6.0 now"),
        (None, "lora.rank was None, is 3 now"),
    ):
        with pytest.raises(errors.CheckpointError, match="choose another name") as caught:
            resume(saved, LOW.record)
        assert words in str(caught.value)


def test_the_merged_policy_is_the_trained_one():
    params = jax.tree.map(lambda x: x + 0.1, LOW.params)
    merged, beside = trees.flatten(LOW.merged(params)), trees.flatten(LOW.model(params))
    assert merged.keys() == trees.flatten(PARAMS).keys() and FULL.merged(PARAMS) is PARAMS
    for path, leaf in merged.items():
        name = path.removesuffix("kernel")
        want = np.array(beside[path])
        if name + lora.A in beside:
            want = want + np.asarray(beside[name + lora.A]) @ np.asarray(beside[name + lora.B])
        np.testing.assert_allclose(leaf, want, atol=1e-6, err_msg=path)
