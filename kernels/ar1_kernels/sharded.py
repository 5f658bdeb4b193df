"""Kernels on a mesh: each device runs them on its scenes and its heads.

XLA partitions its own operations by itself and a kernel not at all: left alone it would gather every array onto every
device. So a call that runs kernels inside `jax.set_mesh(mesh)` goes through `jax.shard_map`: scenes over the axes ROWS,
kv heads with their query heads over HEADS, rows of `linear_log_prob` over all of them with the weight gathered once
(the vocabulary of the releases, 155,697 = 3 x 51,899, is not divided by powers of two). What an axis does not divide is
whole on each of its devices.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

ROWS = ("data", "fsdp")
HEADS = "tensor"


def _axes() -> dict[str, int]:
    """Axes of the mesh in force that the compiler still splits, with sizes; {} without mesh or inside shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return {}
    return {n: mesh.shape[n] for n, t in zip(mesh.axis_names, mesh.axis_types) if t != AxisType.Manual}


def _split(size: int, names, axes: dict[str, int]):
    """The leading ones of `names` whose sizes together divide `size`: an entry of a PartitionSpec, or None."""
    names = [n for n in names if axes.get(n, 1) > 1]
    while names and size % math.prod(axes[n] for n in names):
        names.pop()
    return tuple(names) or None


def attention(run, q, k, v, segment_ids, lengths):
    """run(q [B,N,H,E], k, v [B,M,J,E], segment_ids [B,N] or None, lengths [B] or None) -> [B,N,H,E], on the mesh."""
    axes = _axes()
    rows, heads = _split(q.shape[0], ROWS, axes), _split(k.shape[2], (HEADS,), axes)
    if rows is heads is None:
        return run(q, k, v, segment_ids, lengths)
    array = P(rows, None, heads, None)
    return _shard(run, (array, array, array, P(rows, None), P(rows)), array)(q, k, v, segment_ids, lengths)


def shared_prefix_attention(run, q, keys):
    """run(q [B,K,N,H,E], packed.Keys) -> [B,K,N,H,E], on the mesh."""
    axes = _axes()
    rows, heads = _split(q.shape[0], ROWS, axes), _split(keys.prefix_k.shape[1], (HEADS,), axes)
    if rows is heads is None:
        return run(q, keys)
    out, prefix, own = P(rows, None, None, heads), P(rows, heads), P(rows, None, heads)
    specs = type(keys)(prefix, prefix, P(rows), own, own, P(rows), own, own)
    return _shard(run, (out, specs), out)(q, keys)


def linear_log_prob(run, hidden, weight, labels, temperature, allowed):
    """run(hidden [N,D], weight [D,V], labels [N], temperature [N], allowed [N,2]) -> arrays [N], on the mesh."""
    axes = _axes()
    names = tuple(n for n in (*ROWS, HEADS) if axes.get(n, 1) > 1)
    if not names:
        return run(hidden, weight, labels, temperature, allowed)
    count = hidden.shape[0]
    more = -count % math.prod(axes[n] for n in names)
    pad = lambda x: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    specs = (P(names), P(), P(names), P(names), P(names))
    out = _shard(run, specs, P(names))(*(x if i == 1 else pad(x) for i, x in enumerate(
        (hidden, weight, labels, temperature, allowed))))  # fmt: skip
    return jax.tree.map(lambda x: x[:count], out)


def _shard(run, in_specs, out_specs):
    # A kernel's outputs carry no record of the axes over which they vary, so that is not checked.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)
