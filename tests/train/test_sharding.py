"""A step on a mesh of eight devices against the same step on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ar1_jax.core import sharding, sharding_tables, trees
from ar1_jax.train import optimizer, step
from tests.train import tiny

pytestmark = pytest.mark.slow  # compiles the step for eight devices
ROWS = 4
BATCH, PARAMS = tiny.batch(rows=ROWS), tiny.params()
HEAD = step.init_head(jax.random.key(1), 16, tiny.CLASSES)
TX = optimizer.adamw(step.trained(PARAMS, HEAD), b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0)
STEP = step.build(tiny.MODEL, tiny.RULES, step.Recipe(draws=2), tiny.encode, TX)
KNOBS = {"rate": jnp.float32(0.01), "cells": jnp.float32(1.0)}


def test_two_steps_on_eight_devices_equal_two_on_one():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    one = step.init_state(PARAMS, HEAD, TX)
    many = sharding.shard_tree(one, PARAMS, sharding_tables.PARAMETERS, mesh)
    one = jax.tree.map(jnp.array, one)
    kernel = many.params["vlm"]["model"]["language_model"]["layers"]["mlp"]["up_proj"]["kernel"]
    moment = trees.flatten(many.optimizer)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 12)
    assert any(leaf.sharding == kernel.sharding for leaf in moment.values())  # Adam's moments lie like it
    spread = jax.device_put(BATCH, NamedSharding(mesh, sharding_tables.ACTIVATIONS["scenes"]))
    for number in range(2):
        key = jax.random.key(number)
        one, want = STEP(one, BATCH, KNOBS, key)
        many, got = STEP(many, spread, KNOBS, key)
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
        np.testing.assert_allclose(got["gradient"], want["gradient"], rtol=1e-4)
    for (path, a), b in zip(trees.flatten(one.params).items(), jax.tree.leaves(many.params), strict=True):
        # Adam divides by the gradient's size: where that is rounding noise, the first steps may differ by the rate.
        np.testing.assert_allclose(a, b, atol=2.5e-2, err_msg=path)
        assert np.abs(np.asarray(a) - np.asarray(b)).mean() < 1e-4, path
