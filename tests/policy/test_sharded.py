"""A policy spread over eight devices equals the same policy on one. The reference: the golden, unsharded.

Four mesh shapes; parameters straight from the folder onto the mesh by the house's table; scenes of the golden. The
golden multiplies two rows of lm_head (by 7.25 and 4.05), and the rounding of their logits with them: these two logits
are compared before that factor. How the head is cut has no part in it: with a whole head on every device the largest
difference on (1, 8, 1) stays 1.24e-5. Hidden states differ by 1.0e-6 after the layers, and one device's own logit lies
9.9e-6 from the product of its hidden state in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.core import errors, sharding, trees
from ar1_jax.models import alpamayo
from ar1_jax.policy import prompts
from tests.goldens import compare, weights
from tests.policy import folders

SHAPES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
K = 2


@functools.partial(jax.jit, static_argnums=0)
def outputs(config, params, prompt, ids, noise):
    """Logits [B, V] after the prompt, and one velocity [B, K, A, 2] after the completion ids [B, K, L]."""
    prefix = alpamayo.prefill(config, params, prompt)
    _, suffix = alpamayo.completion(config, params, prefix, ids)
    length = jnp.full(ids.shape[:2], ids.shape[2])
    tau = jnp.full(ids.shape[:2], 0.3)
    velocity = alpamayo.flow_velocity(config, params, prefix, suffix, length, noise, tau)
    return alpamayo.logits(params, prefix.hidden), velocity


@functools.cache
def inputs():
    """Both scenes of r1_small's call `pair`, one completion for each sample, noise."""
    policy = folders.policy("r1_small")
    spec, data = folders.spec("r1_small")["calls"]["pair"], compare.arrays("r1_small")
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith("pair/in/")}
    history = given["ego_history_xyz"], given["ego_history_rot"]
    scenes = [
        folders.scene("r1_small", s, (history[0][i], history[1][i])) for i, s in enumerate(spec["scenes"])
    ]
    prompt = prompts.batch(
        policy.config, [prompts.encode_scene(policy.config, policy.templates, s) for s in scenes]
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200, (len(scenes), K, 5))
    return prompt, ids, rng.normal(size=(len(scenes), K, 64, 2)).astype(np.float32)


@functools.cache
def single():
    policy = folders.policy("r1_small")
    return outputs(policy.config.model, policy.params, *inputs())


@pytest.mark.parametrize("shape", SHAPES)
def test_loaded_onto_a_mesh_the_numbers_are_the_same(shape):
    mesh = sharding.make_mesh(*shape)
    policy = ar1_jax.load(folders.folder("r1_small"), dtype="float32", mesh=mesh)
    flat = trees.flatten(policy.params)
    for path, leaf in trees.flatten(folders.policy("r1_small").params).items():
        np.testing.assert_array_equal(flat[path], leaf, err_msg=path)
        assert flat[path].sharding.mesh == mesh
    kernel = flat["vlm/model/language_model/layers/self_attn/o_proj/kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 256 // shape[2], 64 // shape[1])
    for name, a, b in zip(
        ("logits", "velocity"), single(), outputs(policy.config.model, policy.params, *inputs())
    ):
        a, b = (np.asarray(x) / (gains() if name == "logits" else 1) for x in (a, b))
        assert np.abs(a).max() > 0.1, name
        np.testing.assert_allclose(b, a, atol=1e-5, rtol=0, err_msg=name)


def gains():
    """Factor of each logit that the golden puts on rows of lm_head, [V]."""
    spec = folders.spec("r1_small")
    out = np.ones(weights.vocab_size(spec), np.float32)
    for token, factor in spec["lm_head_row_gain"].items():
        out[weights.token_id(spec, token)] = abs(factor)
    return out


def test_a_mesh_that_does_not_fit_is_refused_with_every_parameter():
    with pytest.raises(errors.ShardingError) as caught:
        ar1_jax.load(
            folders.folder("v15_small"), mesh=sharding.make_mesh(tensor=5, devices=jax.devices()[:5])
        )
    said = str(caught.value)
    assert "self_attn/q_proj/kernel" in said and "mlp/up_proj/kernel" in said and "is not divided by" in said
