"""An engine without kernels: what `packed.Engine` promises, written out in jax.numpy with whole scores."""

import jax
import jax.numpy as jnp
from ar1_kernels import packed


def scores(q, k, seen, scale):
    live = jnp.arange(k.shape[2]) < seen.limit[:, :, None]
    if seen.row_ids is not None:
        live = live & (seen.row_ids[:, :, None] == seen.key_ids[:, None])
    return jnp.where(live[:, None], jnp.einsum("BJXE,BJSE->BJXS", q, k) * scale, -1e30)


def forward(q, k, v, seen, *, scale, out_dtype):
    s = scores(q, k, seen, scale)
    return jnp.einsum("BJXS,BJSE->BJXE", jax.nn.softmax(s), v).astype(out_dtype), jax.nn.logsumexp(s, axis=-1)


def backward(q, k, v, seen, lse, delta, do, *, scale):
    p = jnp.exp(scores(q, k, seen, scale) - lse[..., None])
    ds = p * (jnp.einsum("BJXE,BJSE->BJXS", do, v) - delta[..., None]) * scale
    sums = "BJXS,BJXE->BJSE"
    return jnp.einsum("BJXS,BJSE->BJXE", ds, k), jnp.einsum(sums, ds, q), jnp.einsum(sums, p, do)


def shared(
    q, prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, own_k, own_v, *, causal, scale
):
    """One softmax over every sequence's whole row of keys."""
    batch, heads, samples, rows, _ = q.shape
    repeat = lambda x: jnp.broadcast_to(x[:, None], (batch, samples, *x.shape[1:]))
    keys, values = [repeat(prefix_k)], [repeat(prefix_v)]
    live = [jnp.broadcast_to(jnp.arange(prefix_k.shape[2]) < prefix_length[:, None, None, None],
                             (batch, samples, rows, prefix_k.shape[2]))]  # fmt: skip
    if suffix_k is not None:
        keys, values = [*keys, suffix_k], [*values, suffix_v]
        size = suffix_k.shape[3]
        here = jnp.arange(size) < suffix_length[:, :, None, None]
        live.append(jnp.broadcast_to(here, (batch, samples, rows, size)))
    if own_k is not None:
        keys, values = [*keys, own_k], [*values, own_v]
        n = own_k.shape[3]
        here = (
            jnp.arange(n) <= (jnp.arange(rows) // (rows // n))[:, None]
            if causal
            else jnp.ones((rows, n), bool)
        )
        live.append(jnp.broadcast_to(here, (batch, samples, rows, n)))
    s = jnp.einsum("BJKCE,BKJSE->BKJCS", q, jnp.concatenate(keys, 3)) * scale
    s = jnp.where(jnp.concatenate(live, -1)[:, :, None], s, -1e30)
    out = jnp.einsum("BKJCS,BKJSE->BJKCE", jax.nn.softmax(s), jnp.concatenate(values, 3))
    return out.astype(q.dtype), jax.nn.logsumexp(s, axis=-1).swapaxes(1, 2)


ENGINE = packed.Engine(forward, backward, shared)
