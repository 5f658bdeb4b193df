"""A step on a mesh of eight devices against the same step on one, all parameters trained and adapters alone."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ar1_jax.core import sharding, sharding_tables, trees
from ar1_jax.train import optimizer, step, tuning
from tests.train import tiny

ROWS = 4
BATCH, PARAMS = tiny.batch(rows=ROWS), tiny.params()
HEAD = step.init_head(jax.random.key(1), 16, tiny.CLASSES)
KNOBS = {"rate": jnp.float32(0.01), "cells": jnp.float32(1.0)}
LAYERS = ("vlm", "model", "language_model", "layers", "mlp", "up_proj")


def machine(rank, mesh=None):
    """What is trained, its optimiser, its step."""
    settings = ml_collections.ConfigDict({"rank": rank, "alpha": 6.0, "targets": (".*/layers/.*_proj",)})
    tuned = tuning.begin(settings, PARAMS, jax.random.key(3), "nano", mesh)
    tx = optimizer.adamw(step.trained(tuned.params, HEAD), b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0)
    take = step.build(tiny.MODEL, tiny.RULES, step.Recipe(draws=2), tiny.encode, tx, join=tuned.join)
    return tuned, tx, take


def leaf(tree, name):
    for part in LAYERS:
        tree = tree[part]
    return tree[name]


def test_adapters_moments_and_base_are_cut_by_the_house_table():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    tuned, tx, _ = machine(4, mesh)
    state = tuning.spread(tuned, step.init_state(tuned.params, HEAD, tx), mesh)
    cut = lambda x: x.sharding.shard_shape(x.shape)
    assert cut(leaf(tuned.base, "kernel")) == (2, 8, 12)  # [2, 16, 24] over fsdp x tensor
    a, b = leaf(state.params, "lora_a"), leaf(state.params, "lora_b")
    assert cut(a) == (2, 8, 4) and cut(b) == (2, 4, 12)
    for name, like in (("lora_a", a), ("lora_b", b)):
        path = "/".join((*LAYERS, name))
        moments = [x for key, x in trees.flatten(state.optimizer).items() if key.endswith(path)]
        assert len(moments) == 2 and all(x.sharding == like.sharding for x in moments)


@pytest.mark.slow  # compiles the step for eight devices
@pytest.mark.parametrize("rank", [0, 4])
def test_two_steps_on_eight_devices_equal_two_on_one(rank):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    one_tuned, tx, take = machine(rank)
    many_tuned, *_ = machine(rank, mesh)
    one = step.init_state(one_tuned.params, HEAD, tx)
    many = tuning.spread(many_tuned, jax.tree.map(jnp.array, one), mesh)
    name = "lora_a" if rank else "kernel"
    kernel, moment = leaf(many.params, name), trees.flatten(many.optimizer)
    assert kernel.sharding.shard_shape(kernel.shape) == ((2, 8, 4) if rank else (2, 8, 12))
    assert any(x.sharding == kernel.sharding for x in moment.values())  # Adam's moments lie like it
    spread = jax.device_put(BATCH, NamedSharding(mesh, sharding_tables.ACTIVATIONS["scenes"]))
    for number in range(2):
        key = jax.random.key(number)
        one, want = take(one, BATCH, KNOBS, key, one_tuned.base)
        many, got = take(many, spread, KNOBS, key, many_tuned.base)
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
        np.testing.assert_allclose(got["gradient"], want["gradient"], rtol=1e-4)
    for (path, a), b in zip(trees.flatten(one.params).items(), jax.tree.leaves(many.params), strict=True):
        # Adam divides by the gradient's size: where that is rounding noise, the first steps may differ by the rate.
        np.testing.assert_allclose(a, b, atol=2.5e-2, err_msg=path)
        assert np.abs(np.asarray(a) - np.asarray(b)).mean() < 1e-4, path
