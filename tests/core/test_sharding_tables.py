"""The model's tables. The reference: one device for nano, abstract devices for the released shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding

from ar1_jax.core import sharding, sharding_tables, trees
from ar1_jax.models import alpamayo
from ar1_jax.models.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig
from ar1_jax.policy import sizes

B, S, L, P = 8, 6, 3, 8  # P patches in each of two images a scene


def model(name):
    """ModelConfig of a size, with its own vocabulary where the size leaves it open."""
    s = sizes.size(name)
    text = TextConfig(s.d, s.f, s.layers, s.h, s.j, s.e, s.vocab or 96, s.mrope)
    vision = VisionConfig(s.v_layers, s.v_width, s.v_f, s.v_heads, s.v_positions, s.d, s.v_taps)
    return ModelConfig(text, vision, ExpertConfig(s.x_width, s.x_f, s.x_heads, s.x_in, 2), image_token_id=0)


def shapes(config):
    return jax.eval_shape(functools.partial(alpamayo.init_params, config), jax.random.key(0))


def prompts(rng, rows=B):
    """Prompts of S tokens whose first four are two images of P patches."""
    index = np.tile(np.r_[0:4, -1, -1], (rows, 1)) + np.arange(rows)[:, None] * 4 * (np.arange(S) < 4)
    return alpamayo.Prompt(
        input_ids=rng.integers(0, 96, (rows, S)), length=np.r_[4, np.full(rows - 1, S)],
        position_ids=np.tile(np.arange(S), (3, rows, 1)), next_position=np.full(rows, S), image_index=index,
        pixels=(rng.normal(size=(2 * rows, P, 1536)).astype(np.float32),), grids=((2, 4),),
    )  # fmt: skip


def loss(config, params, prompt, ids, x):
    """Log-probabilities and flow velocities of made-up completions: everything a training step touches."""
    prefix = alpamayo.prefill(config, params, prompt)
    hidden, suffix = alpamayo.completion(config, params, prefix, ids)
    log_prob, entropy = alpamayo.token_log_prob(params, hidden, ids)
    length = jnp.full(ids.shape[:2], L)
    velocity = alpamayo.flow_velocity(config, params, prefix, suffix, length, x, jnp.full(ids.shape[:2], 0.3))
    return -log_prob.mean() + jnp.square(velocity).mean(), (log_prob, entropy, velocity)


@functools.cache
def single(gradients):
    """nano's parameters and inputs, the function, and what it gives on one device."""
    config, rng = model("nano"), np.random.default_rng(0)
    params = jax.jit(functools.partial(alpamayo.init_params, config))(jax.random.key(0))
    inputs = prompts(rng), rng.integers(0, 96, (B, 2, L)), rng.normal(size=(B, 2, 4, 2)).astype(np.float32)
    step = functools.partial(loss, config)
    step = jax.jit(jax.grad(step, has_aux=True) if gradients else step)
    return params, inputs, step, step(params, *inputs)


def compare(shape, gradients):
    """The same function with parameters and scenes spread over a mesh of eight."""
    params, inputs, step, expected = single(gradients)
    mesh = sharding.make_mesh(*shape)
    placed = sharding.shard_tree(params, params, sharding_tables.PARAMETERS, mesh)
    kernel = placed["vlm"]["model"]["language_model"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 128 // shape[1], 160 // shape[2])
    rows = NamedSharding(mesh, sharding_tables.ACTIVATIONS["scenes"])
    copied = NamedSharding(mesh, jax.sharding.PartitionSpec())
    prompt, ids, x = inputs
    prompt = jax.device_put(prompt, jax.tree.map(lambda a: rows if a.shape[0] % B == 0 else copied, prompt))
    found = step(placed, prompt, jax.device_put(ids, rows), jax.device_put(x, rows))
    for (path, a), b in zip(trees.flatten(expected).items(), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_nano_on_eight_devices_equals_one():
    compare((2, 2, 2), gradients=False)


@pytest.mark.slow  # a partitioned backward program of the whole model takes XLA a minute to compile
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_gradients_of_nano_on_eight_devices_equal_those_on_one(shape):
    compare(shape, gradients=True)


@pytest.mark.parametrize("name", ["0p5b", "3b", "7b", "10b"])
@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 16, 4), (8, 32, 1), (4, 32, 2)])
def test_every_size_fits_8_64_and_256_devices(name, shape):
    tree = shapes(model(name))
    mesh = sharding.abstract_mesh(*shape)
    placed = sharding.shard_tree(tree, tree, sharding_tables.PARAMETERS, mesh)
    own = sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(placed)
    )
    even = trees.num_bytes(tree) / (shape[1] * shape[2])
    assert own < 1.02 * even + 16e6, "most of the bytes must be spread over the devices"


def test_the_optimiser_of_the_largest_size_is_spread_as_its_parameters():
    tree = shapes(model("10b"))
    state = jax.eval_shape(optax.adamw(1e-4).init, tree)
    mesh = sharding.abstract_mesh(fsdp=8)
    flat = trees.flatten(sharding.shard_tree(state, tree, sharding_tables.PARAMETERS, mesh))
    spread = [leaf for leaf in flat.values() if any(leaf.sharding.spec)]
    assert sum(trees.num_bytes(leaf) for leaf in spread) > 0.99 * trees.num_bytes(state)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 16, 2), (8, 32, 1)])
def test_the_released_shape_lowers_without_devices(shape):
    config, mesh = model("10b"), sharding.abstract_mesh(*shape)
    tree = shapes(config)
    params = sharding.shard_tree(tree, tree, sharding_tables.PARAMETERS, mesh)
    rows = shape[0] * shape[1]

    def place(name, array):
        spec = sharding_tables.ACTIVATIONS[name]
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, spec))

    read = functools.partial(alpamayo.prefill, config)
    prefix = jax.eval_shape(read, tree, prompts(np.random.default_rng(0), rows))
    placed = jax.tree.map(functools.partial(place, "scenes"), prefix)
    prefix = placed.replace(cache=jax.tree.map(functools.partial(place, "cache"), prefix.cache))
    own = prefix.cache.k.sharding.shard_shape(prefix.cache.k.shape)
    assert own == (36, 1, 8 // shape[2], S, 128), "one scene a device, the kv heads cut by `tensor`"
    ids = place("completions", jax.ShapeDtypeStruct((rows, 2, L), jnp.int32))

    def step(params, prefix, ids):
        hidden, _ = alpamayo.completion(config, params, prefix, ids)
        return alpamayo.token_log_prob(params, hidden, ids)[0].mean()

    text = jax.jit(jax.grad(step)).trace(params, prefix, ids).lower(lowering_platforms=("tpu",)).as_text()
    assert f'"data"={shape[0]}, "fsdp"={shape[1]}, "tensor"={shape[2]}' in text
