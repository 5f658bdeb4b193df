"""Grouped-query attention of N queries on M keys, in XLA, in parts where the scores would be large.

B rows, N queries, M keys, H query heads, J kv heads, R = H/J, E head width. Softmax in float32. The tail of a
row beyond its length holds anything finite; its outputs are meaningless and finite.
"""

import functools

import jax
import jax.numpy as jnp

from ar1_kernels import backend as _backend
from ar1_kernels import engines, packed, sharded
from ar1_kernels.chunked import MASKED

SCORES = 2**26  # scores held at once, in elements (256 MB in float32)
ON_PROCESSOR = (
    2**23
)  # the same on a processor, which is faster while the scores of one head stay in its caches
QUERIES = 256  # of one head at once there


def attention(q, k, v, *, causal, segment_ids=None, lengths=None, scale=None, backend="auto", blocks=None):
    """q [B, N, H, E], k and v [B, M, J, E] -> [B, N, H, E] in q's dtype.

    causal: query n sees keys up to n + M - N. segment_ids: int [B, N] (N = M), queries see keys of their own segment
    only. lengths: int [B], keys at or beyond it are padding. scale: E**-0.5 by default. backend: `backend.choose`.
    blocks: block sizes of a Pallas back-end, None: from its table.
    """
    batch, n, heads, width = q.shape
    m, kv_heads = k.shape[1], k.shape[2]
    if heads % kv_heads:
        raise ValueError(f"attention: {heads} query heads are no multiple of {kv_heads} kv heads")
    if segment_ids is not None and n != m:
        raise ValueError(f"attention: segment_ids needs as many queries as keys, got {n} and {m}")
    scale = width**-0.5 if scale is None else scale
    chosen = _backend.choose("attention", backend, _refusals(q.dtype, width, segment_ids is not None))
    if chosen == "cudnn":
        from ar1_kernels.gpu import cudnn

        return cudnn.attention(q, k, v, causal=causal, lengths=lengths, scale=scale)
    if chosen != "xla":
        engine = engines.attention(chosen, _backend.target().interpret, blocks)
        run = functools.partial(packed.attention, engine, causal=causal, scale=scale)
        return sharded.attention(run, q, k, v, segment_ids, lengths)
    if batch * heads * n * m > ON_PROCESSOR:
        chunked = functools.partial(_chunked, causal=causal, scale=scale)
        by_head = functools.partial(_by_head, causal=causal, scale=scale)
        return jax.lax.platform_dependent(q, k, v, segment_ids, lengths, cpu=by_head, default=chunked)
    return _chunked(q, k, v, segment_ids, lengths, causal, scale)


def _refusals(dtype, width, segments):
    """Back-end -> function that says why it cannot do this attention, or None."""
    kind = _backend.target().kind

    def cudnn():
        from ar1_kernels.gpu import cudnn

        return cudnn.refusal(dtype, width, kind, segments)

    return engines.refusals(dtype, width, kind) | {"cudnn": cudnn}


def _live(rows, keys, causal, segments, length, offset):
    """Which of `keys` [M] the queries `rows` [N] of one batch row see: bool [N, M]; offset: M - N of the whole."""
    live = jnp.ones((len(rows), len(keys)), bool)
    if causal:
        live = live & (keys <= rows[:, None] + offset)
    if length is not None:
        live = live & (keys < length)
    if segments is not None:
        live = live & (segments[rows][:, None] == segments[keys])
    return live


def _by_head(q, k, v, segment_ids, lengths, causal, scale):
    """Head after head and QUERIES after QUERIES, on no keys that a causal query cannot see: every matrix is contiguous
    and the scores stay small. Measured against one product over all heads: a fifth of the time for 3,072 tokens."""
    batch, n, heads, width = q.shape
    m, kv_heads = k.shape[1], k.shape[2]
    group = heads // kv_heads
    q = q.reshape(batch, n, kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    split = lambda x: x.reshape(batch * kv_heads, *x.shape[2:])
    row = jnp.repeat(jnp.arange(batch), kv_heads)

    @jax.checkpoint
    def head(args):
        q, k, v, row = args
        pick = lambda x: None if x is None else jnp.asarray(x)[row]
        out = []
        for start in range(0, n, QUERIES):
            end = min(start + QUERIES, n)
            seen = end + m - n if causal else m
            scores = jnp.dot(q[:, start:end].reshape(-1, width), k[:seen].T,
                             preferred_element_type=jnp.float32) * scale  # fmt: skip
            # Computed, not given: constants would fill the program.
            rows, keys = start + jnp.arange(end - start), jnp.arange(seen)
            live = _live(rows, keys, causal, pick(segment_ids), pick(lengths), m - n)
            scores = jnp.where(jnp.tile(live, (group, 1)), scores, MASKED)
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
            part = jnp.dot(weights.astype(v.dtype), v[:seen], preferred_element_type=jnp.float32)
            part = part / weights.sum(axis=-1, keepdims=True)
            out.append(part.astype(q.dtype).reshape(group, end - start, width))
        return jnp.concatenate(out, axis=1)

    out = jax.lax.map(head, (split(q), split(k.swapaxes(1, 2)), split(v.swapaxes(1, 2)), row))
    return out.reshape(batch, heads, n, width).swapaxes(1, 2)


def _chunked(q, k, v, segment_ids, lengths, causal, scale):
    """All heads at once, a chunk of queries at a time."""
    batch, n, heads, width = q.shape
    m, kv_heads = k.shape[1], k.shape[2]
    q = q.reshape(batch, n, kv_heads, heads // kv_heads, width)

    def block(start, q):
        """Queries start..start+n of every row against all keys."""
        size = q.shape[1]
        scores = jnp.einsum("BNJRE,BMJE->BJRNM", q, k, preferred_element_type=jnp.float32) * scale
        live = jnp.ones((1, size, m), bool)
        rows = start + jnp.arange(size)
        if causal:
            live = live & (jnp.arange(m) <= rows[:, None] + m - n)
        if lengths is not None:
            live = live & (jnp.arange(m) < lengths[:, None, None])
        if segment_ids is not None:
            mine = jax.lax.dynamic_slice_in_dim(segment_ids, start, size, axis=1)
            live = live & (mine[:, :, None] == segment_ids[:, None, :])
        weights = jax.nn.softmax(jnp.where(live[:, None, None], scores, MASKED), axis=-1)
        out = jnp.einsum("BJRNM,BMJE->BNJRE", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return out.astype(q.dtype)

    rows = max(1, min(n, SCORES // max(1, batch * heads * m)))
    if rows >= n:
        out = block(jnp.zeros((), jnp.int32), q)
    else:
        # The last block starts early and overlaps its neighbour, so that no query is padding.
        starts = jnp.minimum(jnp.arange(-(-n // rows)) * rows, n - rows)
        take = lambda start: block(start, jax.lax.dynamic_slice_in_dim(q, start, rows, axis=1))
        blocks = jax.lax.map(jax.checkpoint(take), starts)
        index = starts[:, None] + jnp.arange(rows)
        out = (
            jnp.zeros_like(q)
            .at[:, index.reshape(-1)]
            .set(jnp.moveaxis(blocks, 0, 1).reshape(batch, -1, *q.shape[2:]))
        )
    return out.reshape(batch, n, heads, width)
