"""Training on the chips' kernels, run by Pallas' interpreter: loss and gradients are those of the XLA path, on one
device and on a mesh of them."""

import dataclasses

import jax
import numpy as np
import pytest
from ar1_kernels import backend

from ar1_jax.core import sharding, trees
from ar1_jax.train import step
from tests.train import tiny
from tests.train.test_step import HEAD, KEY, KNOBS, PARAMS, RECIPE

BATCH = tiny.batch(rows=4)


def loss_and_gradient(kernels, head=HEAD):
    model = dataclasses.replace(tiny.MODEL, kernels=kernels)

    def loss(tree):
        return step.total_loss(model, tiny.RULES, RECIPE, tiny.encode, tree, BATCH, KNOBS, KEY)[0]

    return jax.jit(jax.value_and_grad(loss))(step.trained(PARAMS, head))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_loss_and_gradients_on_tpu_kernels(devices, monkeypatch):
    """Vision, prompt, completions behind their prefixes, log-probabilities, and the flow on prefix and suffix."""
    monkeypatch.setattr(backend, "_LOGGED", set())
    mesh = sharding.make_mesh(data=-1, tensor=min(devices, 2), devices=jax.devices()[:devices])
    want = loss_and_gradient("xla")
    with backend.tracing_for("tpu", "TPU v5 lite", interpret=True), sharding.on(mesh):
        got = loss_and_gradient("pallas_tpu")
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    found = trees.flatten(got[1])
    for path, leaf in trees.flatten(want[1]).items():
        bound = 1e-5 * max(1.0, float(np.abs(leaf).max()))
        np.testing.assert_allclose(found[path], leaf, atol=bound, err_msg=path)
    used = {operation for operation, chosen, _ in backend._LOGGED if chosen == "pallas_tpu"}
    assert used == {"attention", "shared_prefix_attention", "linear_log_prob"}
