"""Kernels on a mesh of fake devices equal those of one device, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import packed, sharded
from jax.sharding import AxisType

from tests.kernels import plain

KEY = jax.random.key(1)


def normal(index, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, index), shape)


def mesh(data, fsdp, tensor):
    devices = jax.devices()[: data * fsdp * tensor]
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), devices=devices,
                         axis_types=(AxisType.Auto,) * 3)  # fmt: skip


def local(run, sizes):
    """`run`, and a list that gets the leading sizes of what each traced call of it was given."""

    def noted(*args):
        sizes.append(args[0].shape)
        return run(*args)

    return noted


def same(on_mesh, alone, arrays):
    """Values and gradients of two ways to compute."""
    loss = lambda run: lambda a: jnp.sum(jnp.sin(run(a)))
    value = lambda run: jax.jit(jax.value_and_grad(loss(run)))(arrays)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), value(on_mesh), value(alone)
    )


@pytest.mark.parametrize(
    "shape, part", [((2, 1, 2), (1, 7, 2, 8)), ((1, 2, 4), (1, 7, 4, 8)), ((8, 1, 1), (2, 7, 4, 8))]
)
def test_attention_on_a_mesh(shape, part):
    """Two scenes, four query on two kv heads; an axis that divides neither leaves them whole."""
    run = functools.partial(packed.attention, plain.ENGINE, causal=True, scale=0.3)
    arrays = normal(1, 2, 7, 4, 8), normal(2, 2, 7, 2, 8), normal(3, 2, 7, 2, 8)
    rest = jnp.array([[0, 0, 1, 1, 1, 1, 2]] * 2), jnp.array([5, 7])
    sizes = []
    with jax.set_mesh(mesh(*shape)):
        same(lambda a: sharded.attention(local(run, sizes), *a, *rest), lambda a: run(*a, *rest), arrays)
    assert set(sizes) == {part}


def test_shared_prefix_attention_on_a_mesh():
    run = functools.partial(packed.shared_prefix_attention, plain.ENGINE, causal=False, scale=0.3)
    q, prefix = normal(0, 2, 3, 5, 4, 8), [normal(i, 2, 2, 9, 8) for i in (1, 2)]
    more = [normal(i, 2, 3, 2, size, 8) for i, size in enumerate((4, 4, 5, 5), start=3)]
    lengths = jnp.array([6, 9]), jnp.array([[0, 4, 2], [1, 3, 4]])

    def keys(arrays):
        prefix, more = arrays[1:]
        return packed.Keys(*prefix, lengths[0], *more[:2], lengths[1], *more[2:])

    sizes = []
    with jax.set_mesh(mesh(2, 1, 2)):
        on_mesh = lambda a: sharded.shared_prefix_attention(local(run, sizes), a[0], keys(a))
        same(on_mesh, lambda a: run(a[0], keys(a)), (q, prefix, more))
    assert set(sizes) == {(1, 3, 5, 2, 8)}


def test_linear_log_prob_on_a_mesh():
    """Eleven rows over eight devices: padded to sixteen, two each; the weight is whole."""

    def run(hidden, weight, labels, temperature, allowed):
        logits = jnp.where(jnp.arange(13) < allowed[:, 1:], hidden @ weight / temperature[:, None], -1e30)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    rest = jnp.arange(11) % 7, jnp.linspace(0.5, 2.0, 11), jnp.array([[0, 9]] * 11)
    sizes = []
    with jax.set_mesh(mesh(2, 2, 2)):
        on_mesh = lambda a: sharded.linear_log_prob(local(run, sizes), *a, *rest)
        same(on_mesh, lambda a: run(*a, *rest), (normal(0, 11, 6), normal(1, 6, 13)))
    assert set(sizes) == {(2, 6)}


def test_without_a_mesh_and_inside_shard_map_nothing_is_split_again():
    calls = []
    run = lambda q, k, v, segments, lengths: calls.append(q.shape) or q
    arrays = [normal(i, 2, 7, 4, 8) for i in range(3)]
    sharded.attention(run, *arrays, None, None)
    spec = jax.sharding.PartitionSpec("data", None, "tensor")
    with jax.set_mesh(mesh(2, 1, 2)):
        inner = lambda *a: sharded.attention(run, *a, None, None)
        jax.shard_map(inner, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(*arrays)
    assert calls == [(2, 7, 4, 8), (1, 7, 2, 8)]
