"""Parameters split by layer: the same numbers as the scan over stacked ones, and no second copy of a weight."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core import trees
from ar1_jax.models import alpamayo
from tests.models.test_towers import CONFIG, PARAMS, PROMPT

SPLIT = alpamayo.by_layer(PARAMS)
RNG = np.random.default_rng(1)
IDS = RNG.integers(0, 38, (2, 3, 4)).astype(np.int32)
X = RNG.normal(size=(2, 3, 4, 2)).astype("float32")


@jax.jit
def run(params):
    """Everything a plan computes: image tokens, states, both caches, the flow's field."""
    prefix = alpamayo.prefill(CONFIG, params, PROMPT)
    hidden, suffix = alpamayo.completion(CONFIG, params, prefix, IDS)
    field = alpamayo.flow_velocity(
        CONFIG, params, prefix, suffix, jnp.full((2, 3), 3), X, jnp.full((2, 3), 0.3)
    )
    return {"prefix": prefix, "hidden": hidden, "suffix": suffix, "field": field}


def test_split_and_stacked_parameters_give_the_same_numbers():
    """PROMPT holds images of two taps, so that a DeepStack row added after the wrong layer is seen."""
    want, found = run(PARAMS), run(SPLIT)
    for cache in (found["suffix"], found["prefix"].cache):
        assert len(cache.k) == len(cache.v) == CONFIG.text.num_hidden_layers
    stack = lambda x: jnp.stack(x) if isinstance(x, tuple) else x
    found = jax.tree.map(stack, found, is_leaf=lambda x: isinstance(x, tuple))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_split_parameters_are_views_of_the_stacked_ones():
    split, stacked = trees.flatten(SPLIT), trees.flatten(PARAMS)
    path = "vlm/model/language_model/{}/mlp/up_proj/kernel"
    whole = stacked[path.format("layers")]
    for i in range(CONFIG.text.num_hidden_layers):
        part = split[path.format(f"layers_{i}")]
        assert part.unsafe_buffer_pointer() - whole.unsafe_buffer_pointer() == i * part.nbytes, f"layer {i}"
    assert sum(x.size for x in split.values()) == sum(x.size for x in stacked.values())


def test_a_token_copies_no_weight():
    """A step of the loop needs less room beside its arguments than the kernels of one layer; the scan needs more."""

    def room(params):
        prefix = jax.eval_shape(lambda p: alpamayo.prefill(CONFIG, p, PROMPT), params)

        def step(params, prefix, x, at):
            past = alpamayo.Past(prefix.cache, prefix.length)
            loop = lambda _, x: alpamayo.decode(CONFIG, params, x, at, past)[0]
            return jax.lax.fori_loop(0, 3, loop, x)

        x = jax.ShapeDtypeStruct((2, 1, 1, CONFIG.text.hidden_size), jnp.float32)
        at = jax.ShapeDtypeStruct((3, 2, 1, 1), jnp.int32)
        return jax.jit(step).lower(params, prefix, x, at).compile().memory_analysis().temp_size_in_bytes

    layer = sum(x.nbytes for x in jax.tree.leaves(SPLIT["vlm"]["model"]["language_model"]["layers_0"]))
    assert room(SPLIT) < layer < room(PARAMS)
