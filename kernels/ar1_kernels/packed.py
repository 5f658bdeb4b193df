"""Glue between the attention operations and a target's kernels: rows, joins, derivatives.

A kernel knows rows and keys of one kv head: every query of every query head (and, on a shared prefix, of every
sequence) that reads the same keys is a row, so that a key is fetched once for all of them. Here queries become rows,
causality and lengths become a limit per row, and the parts of a backward pass are put together: with the log-sum-exp
over all keys known, the gradient on one part of the keys needs nothing of the other parts.

B scenes, N queries, M keys, H query heads, J kv heads, R = H/J, E head width; K sequences a scene, S prefix, L suffix.
C = N·R rows of a sequence, row n·R + r; X rows of a kv head.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Seen(NamedTuple):
    """Which keys a row sees: 0 <= key < limit[b, x] and, where ids are given, those of its own id.

    limit: int32 [B, X]. row_ids: int32 [B, X] or None; key_ids: int32 [B, S] or None.
    """

    limit: jax.Array
    row_ids: jax.Array | None = None
    key_ids: jax.Array | None = None


class Engine(NamedTuple):
    """The attention kernels of a target; hashable, static under jit.

    forward(q [B,J,X,E], k, v [B,J,S,E], seen, *, scale, out_dtype) -> out [B,J,X,E], lse float32 [B,J,X].
    backward(q, k, v, seen, lse, delta, do, *, scale) -> dq float32 [B,J,X,E], dk and dv [B,J,S,E]; lse may be over more
    keys than these; delta float32 [B,J,X] = sum(do · out).
    shared(q [B,J,K,C,E], prefix_k, prefix_v [B,J,S,E], prefix_length, suffix_k, suffix_v [B,K,J,L,E] or None,
    suffix_length, own_k, own_v [B,K,J,N,E] or None, *, causal, scale) -> out [B,J,K,C,E], lse float32 [B,J,K,C].
    """

    forward: Callable
    backward: Callable
    shared: Callable


def attention(engine: Engine, q, k, v, segment_ids, lengths, *, causal, scale):
    """`ar1_kernels.attention` by the kernels of `engine`; differentiable in q, k and v."""
    batch, n, heads, width = q.shape
    m, kv_heads = k.shape[1], k.shape[2]
    group = heads // kv_heads
    limit = jnp.full((batch, n), m, jnp.int32)
    if causal:
        limit = jnp.minimum(limit, jnp.arange(n, dtype=jnp.int32) + (m - n + 1))
    if lengths is not None:
        limit = jnp.minimum(limit, jnp.asarray(lengths, jnp.int32)[:, None])
    by_row = lambda x: jnp.repeat(x, group, axis=1)
    seen = Seen(by_row(jnp.maximum(limit, 0)))
    if segment_ids is not None:
        ids = jnp.asarray(segment_ids, jnp.int32)
        seen = seen._replace(row_ids=by_row(ids), key_ids=ids)
    rows = q.reshape(batch, n, kv_heads, group, width).transpose(0, 2, 1, 3, 4)
    rows = rows.reshape(batch, kv_heads, n * group, width)
    out = _attend(engine, float(scale), rows, k.swapaxes(1, 2), v.swapaxes(1, 2), seen)
    out = out.reshape(batch, kv_heads, n, group, width).transpose(0, 2, 1, 3, 4)
    return out.reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(engine, scale, q, k, v, seen):
    return engine.forward(q, k, v, seen, scale=scale, out_dtype=q.dtype)[0]


def _attend_forward(engine, scale, q, k, v, seen):
    out, lse = engine.forward(q, k, v, seen, scale=scale, out_dtype=q.dtype)
    return out, (q, k, v, seen, out, lse)


def _attend_backward(engine, scale, saved, do):
    q, k, v, seen, out, lse = saved
    dq, dk, dv = engine.backward(q, k, v, seen, lse, _delta(do, out), do, scale=scale)
    return dq.astype(q.dtype), dk, dv, None


_attend.defvjp(_attend_forward, _attend_backward)


def _delta(do, out):
    """sum(do · out) over the head width, float32: what the softmax subtracts from every row of its derivative."""
    return jnp.sum(do.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)


class Keys(NamedTuple):
    """Everything that the rows of `shared_prefix_attention` see, heads before tokens; lengths are int32 arrays.

    prefix_k, prefix_v [B, J, S, E], prefix_length [B]; suffix_k, suffix_v [B, K, J, L, E], suffix_length [B, K], or all
    three None; own_k, own_v [B, K, J, N, E] or None.
    """

    prefix_k: jax.Array
    prefix_v: jax.Array
    prefix_length: jax.Array
    suffix_k: jax.Array | None
    suffix_v: jax.Array | None
    suffix_length: jax.Array | None
    own_k: jax.Array | None
    own_v: jax.Array | None


def shared_prefix_attention(engine: Engine, q, keys: Keys, *, causal, scale):
    """`ar1_kernels.shared_prefix_attention` of q [B, K, N, H, E] by the kernels of `engine`; differentiable in both."""
    batch, samples, n, heads, width = q.shape
    kv_heads = keys.prefix_k.shape[1]
    group = heads // kv_heads
    rows = q.reshape(batch, samples, n, kv_heads, group, width).transpose(0, 3, 1, 2, 4, 5)
    rows = rows.reshape(batch, kv_heads, samples, n * group, width)
    out = _share(engine, bool(causal), float(scale), rows, keys)
    out = out.reshape(batch, kv_heads, samples, n, group, width).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _share(engine, causal, scale, q, keys):
    return engine.shared(q, *keys, causal=causal, scale=scale)[0]


def _share_forward(engine, causal, scale, q, keys):
    out, lse = engine.shared(q, *keys, causal=causal, scale=scale)
    return out, (q, keys, out, lse)


def _share_backward(engine, causal, scale, saved, do):
    """Each part of the keys by itself: the prefix with the rows of all sequences, suffix and own keys by sequence."""
    q, keys, out, lse = saved
    batch, kv_heads, samples, rows, width = q.shape
    delta = _delta(do, out)
    spread = lambda limit, lead: jnp.broadcast_to(limit.reshape(-1, 1), (lead, limit.size // lead * rows))

    def part(arrays, k, v, limit):
        q, lse, delta, do = arrays
        return engine.backward(q, k, v, Seen(limit), lse, delta, do, scale=scale)

    together = lambda x: x.reshape(batch, kv_heads, samples * rows, *x.shape[4:])
    limit = jnp.broadcast_to(keys.prefix_length[:, None], (batch, samples * rows)).astype(jnp.int32)
    flat = tuple(together(x) for x in (q, lse, delta, do))
    dq, prefix_dk, prefix_dv = part(flat, keys.prefix_k, keys.prefix_v, limit)
    dq = dq.reshape(q.shape)
    grads = Keys(prefix_dk, prefix_dv, *[None] * 6)

    lead = batch * samples
    apart = lambda x: x.swapaxes(1, 2).reshape(lead, kv_heads, rows, *x.shape[4:])
    back = lambda x: x.reshape(batch, samples, kv_heads, rows, width).swapaxes(1, 2)
    merge = lambda x: x.reshape(lead, *x.shape[2:])
    each = tuple(apart(x) for x in (q, lse, delta, do))
    if keys.suffix_k is not None:
        limit = spread(keys.suffix_length.astype(jnp.int32), lead)
        more, dk, dv = part(each, merge(keys.suffix_k), merge(keys.suffix_v), limit)
        dq = dq + back(more)
        grads = grads._replace(
            suffix_k=dk.reshape(keys.suffix_k.shape), suffix_v=dv.reshape(keys.suffix_v.shape)
        )
    if keys.own_k is not None:
        n = keys.own_k.shape[3]
        limit = (
            jnp.arange(rows, dtype=jnp.int32) // (rows // n) + 1
            if causal
            else jnp.full((rows,), n, jnp.int32)
        )
        more, dk, dv = part(each, merge(keys.own_k), merge(keys.own_v), jnp.broadcast_to(limit, (lead, rows)))
        dq = dq + back(more)
        grads = grads._replace(own_k=dk.reshape(keys.own_k.shape), own_v=dv.reshape(keys.own_v.shape))
    return dq.astype(q.dtype), grads


_share.defvjp(_share_forward, _share_backward)
