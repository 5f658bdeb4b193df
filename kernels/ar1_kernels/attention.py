"""Grouped-query attention of N queries on M keys, in XLA, chunked over queries where the scores would be large.

B rows, N queries, M keys, H query heads, J kv heads, R = H/J, E head width. Softmax in float32. The tail of a
row beyond its length holds anything finite; its outputs are meaningless and finite.
"""

import jax
import jax.numpy as jnp

from ar1_kernels import backend as _backend

MASKED = -1e30  # finite, so that a row without a live key stays finite
SCORES = 2**26  # scores held at once, in elements (256 MB in float32)


def attention(q, k, v, *, causal, segment_ids=None, lengths=None, scale=None, backend="auto"):
    """q [B, N, H, E], k and v [B, M, J, E] -> [B, N, H, E] in q's dtype.

    causal: query n sees keys up to n + M - N. segment_ids: int [B, N] (N = M), queries see keys of their own segment
    only. lengths: int [B], keys at or beyond it are padding. scale: E**-0.5 by default.
    """
    _backend.choose("attention", backend)
    batch, n, heads, width = q.shape
    m, kv_heads = k.shape[1], k.shape[2]
    if heads % kv_heads:
        raise ValueError(f"attention: {heads} query heads are no multiple of {kv_heads} kv heads")
    if segment_ids is not None and n != m:
        raise ValueError(f"attention: segment_ids needs as many queries as keys, got {n} and {m}")
    scale = width**-0.5 if scale is None else scale
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
