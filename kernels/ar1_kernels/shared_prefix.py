"""Attention of K sequences on one prefix stored once, plus each one's own suffix, plus the queries' own keys.

B scenes, K sequences a scene, N queries a sequence, S prefix, L suffix, H query heads, J kv heads, R = H/J, E head
width. Three softmaxes over disjoint keys are joined by log-sum-exp (Hydragen, arXiv 2402.05099): the prefix enters
one matrix product for all K·N·R queries of a kv head and is never repeated.
"""

import functools

import jax
import jax.numpy as jnp

from ar1_kernels import backend as _backend
from ar1_kernels import engines, packed, sharded
from ar1_kernels.attention import MASKED

PREFIX_BLOCK = 1024  # prefix keys scored at once where K·N·S is large
SCORES = 2**26
ONE_HEAD = 2**17  # scores of one kv head from which a processor goes head by head


def shared_prefix_attention(
    q, prefix_k, prefix_v, suffix_k=None, suffix_v=None, *, prefix_length, suffix_length=None, causal,
    own_k=None, own_v=None, scale=None, heads_first=False, backend="auto", blocks=None,
):  # fmt: skip
    """q [B, K, N, H, E] -> [B, K, N, H, E] in q's dtype; softmax in float32.

    prefix_k, prefix_v [B, S, J, E], live below prefix_length [B]. suffix_k, suffix_v [B, K, L, J, E], live below
    suffix_length [B, K], seen by every query. own_k, own_v [B, K, N, J, E]: keys of the queries themselves; query n
    sees own keys 0..n when causal, all of them otherwise. scale: E**-0.5 by default. heads_first: prefix and suffix are
    stored as [B, J, S, E] and [B, K, J, L, E], in the order that their products read them: who asks many times saves
    a transposition each time. backend, blocks: as for `attention`.
    """
    batch, samples, n, heads, width = q.shape
    kv_heads = prefix_k.shape[1 if heads_first else 2]
    if heads % kv_heads:
        raise ValueError(
            f"shared_prefix_attention: {heads} query heads are no multiple of {kv_heads} kv heads"
        )
    scale = width**-0.5 if scale is None else scale
    flip = lambda x: None if x is None else x.swapaxes(-3, -2)
    if not heads_first:
        prefix_k, prefix_v, suffix_k, suffix_v = (flip(x) for x in (prefix_k, prefix_v, suffix_k, suffix_v))
    keys = packed.Keys(
        prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, flip(own_k), flip(own_v)
    )
    here = _backend.target()
    refusals = engines.refusals(q.dtype, width, here.kind)
    chosen = _backend.choose("shared_prefix_attention", backend, refusals)
    if chosen == "xla":
        return _in_xla(q, keys, causal, scale)
    engine = engines.attention(chosen, here.interpret, blocks)
    run = functools.partial(packed.shared_prefix_attention, engine, causal=causal, scale=scale)
    return sharded.shared_prefix_attention(run, q, keys)


def _in_xla(q, keys: packed.Keys, causal, scale):
    """Part by part in XLA."""
    batch, samples, n, heads, width = q.shape
    kv_heads = keys.prefix_k.shape[1]
    grouped = q.reshape(batch, samples, n, kv_heads, heads // kv_heads, width)
    parts = [_prefix_part(grouped, keys.prefix_k, keys.prefix_v, keys.prefix_length, scale)]
    if keys.suffix_k is not None:
        live = jnp.arange(keys.suffix_k.shape[3]) < keys.suffix_length[..., None]
        parts.append(_own_part(grouped, keys.suffix_k, keys.suffix_v, live[:, :, None], scale))
    if keys.own_k is not None:
        live = jnp.tri(n, dtype=bool) if causal else jnp.ones((n, n), bool)
        parts.append(_own_part(grouped, keys.own_k, keys.own_v, live[None, None], scale))
    return join(parts).astype(q.dtype).reshape(q.shape)


def join(parts):
    """[(out, peak, total), ...] over disjoint keys -> softmax-weighted values.

    out [..., E] = sum of exp(score - peak) · value, peak [...] = largest score, total [...] = sum of exp(score - peak).
    """
    peak = parts[0][1]
    for _, other, _ in parts[1:]:
        peak = jnp.maximum(peak, other)
    out, total = 0.0, 0.0
    for part_out, part_peak, part_total in parts:
        weight = jnp.exp(part_peak - peak)
        out, total = out + part_out * weight[..., None], total + part_total * weight
    return out / total[..., None]


def _softmax_part(scores, live, product, v):
    """Unnormalised softmax over the last axis of `scores`: (out, peak, total); `product` contracts with v."""
    scores = jnp.where(live, scores, MASKED)
    peak = jax.lax.stop_gradient(scores.max(axis=-1))
    weights = jnp.exp(scores - peak[..., None])
    out = jnp.einsum(product, weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out, peak, weights.sum(axis=-1)


def _own_part(q, k, v, live, scale):
    """q [B,K,N,J,R,E] on k, v [B,K,J,M,E]; live broadcasts to [B,K,N,M]; results lead with [B,K,N,J,R]."""
    scores = jnp.einsum("BKNJRE,BKJME->BKJRNM", q, k, preferred_element_type=jnp.float32) * scale
    out, peak, total = _softmax_part(scores, live[:, :, None, None], "BKJRNM,BKJME->BKJRNE", v)
    move = lambda x: jnp.moveaxis(x, 4, 2)
    return move(out), move(peak), move(total)


def _prefix_part(q, k, v, length, scale):
    """q [B,K,N,J,R,E] on k, v [B,J,S,E] live below length [B]; results lead with [B,K,N,J,R]."""
    batch, samples, n, kv_heads, group, width = q.shape
    q = q.transpose(0, 3, 1, 2, 4, 5).reshape(batch, kv_heads, -1, width)
    whole = functools.partial(_all_heads, scale=scale)
    if q.shape[2] * k.shape[2] >= ONE_HEAD:
        by_head = functools.partial(_by_head, scale=scale)
        parts = jax.lax.platform_dependent(q, k, v, length, cpu=by_head, default=whole)
    else:
        parts = whole(q, k, v, length)
    apart = lambda x: x.reshape(batch, kv_heads, samples, n, group, *x.shape[3:])
    return tuple(jnp.moveaxis(apart(x), 1, 3) for x in parts)


def _by_head(q, k, v, length, scale):
    """q [B,J,X,E] on k, v [B,J,S,E], a kv head at a time: its scores stay in a processor's caches."""
    rows = jnp.repeat(length, k.shape[1])
    flat = lambda x: x.reshape(-1, *x.shape[2:])

    @jax.checkpoint
    def head(args):
        q, k, v, length = args
        scores = jnp.dot(q, k.T, preferred_element_type=jnp.float32) * scale
        return _softmax_part(scores, jnp.arange(len(k)) < length, "XS,SE->XE", v)

    parts = jax.lax.map(head, (flat(q), flat(k), flat(v), rows))
    return tuple(x.reshape(*q.shape[:2], *x.shape[1:]) for x in parts)


def _all_heads(q, k, v, length, scale):
    """q [B,J,X,E] on k, v [B,J,S,E]; blocks of prefix keys where the scores are many."""
    batch, kv_heads, _, width = q.shape
    size = k.shape[2]

    def part(k, v, start):
        live = start + jnp.arange(k.shape[2]) < length[:, None]
        scores = jnp.einsum("BJXE,BJSE->BJXS", q, k, preferred_element_type=jnp.float32) * scale
        return _softmax_part(scores, live[:, None, None], "BJXS,BJSE->BJXE", v)

    if size <= PREFIX_BLOCK or q.size // width * size <= SCORES:
        return part(k, v, 0)
    blocks = -(-size // PREFIX_BLOCK)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, blocks * PREFIX_BLOCK - size), (0, 0)))
    split = lambda x: jnp.moveaxis(pad(x).reshape(batch, kv_heads, blocks, PREFIX_BLOCK, width), 2, 0)

    @jax.checkpoint
    def step(carry, xs):
        new = part(*xs)
        old_out, old_peak, old_total = carry
        peak = jnp.maximum(old_peak, new[1])
        a, b = jnp.exp(old_peak - peak), jnp.exp(new[1] - peak)
        return (old_out * a[..., None] + new[0] * b[..., None], peak, old_total * a + new[2] * b), None

    starts = jnp.arange(blocks) * PREFIX_BLOCK
    return jax.lax.scan(step, _empty(q), (split(k), split(v), starts))[0]


def _empty(q):
    """The part of no keys for q [B, J, X, E]: (out, peak, total), which lead with [B, J, X]."""
    shape = q.shape[:3]
    return jnp.zeros(q.shape, jnp.float32), jnp.full(shape, MASKED), jnp.zeros(shape)
