"""Log-probabilities over a vocabulary that is read in chunks, with a backward pass of its own.

N rows, D width, V vocabulary, Vc ids of a chunk, z = hidden · weight / temperature. An engine reduces the logits of a
chunk to three numbers a row; chunks join by log-sum-exp. The backward pass takes one chunk of d loss / d logits [N, Vc]
at a time from the engine and multiplies it into both gradients with XLA's own products. No [N, V] array exists.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

MASKED = -1e30  # a score or logit that does not count: finite, so that a row without a live one stays finite
CHUNK_BYTES = 2**27  # of a chunk's weight [D, Vc] and of its d logits [N, Vc], each
UNIT = 256  # a chunk is a multiple of this: whole tiles of the kernels, rows of whole 16 bytes for a GPU's copies


class Stats(NamedTuple):
    """What the logits of some ids come to, each float32 [N]."""

    label: jax.Array  # z of the label, MASKED where it is not among the live ids
    lse: jax.Array  # log of the sum of exp(z) over the live ids
    mean: jax.Array  # sum of p · z, p the softmax over the live ids


class Engine(NamedTuple):
    """The kernels of a target. Column c of `weight` is id first + c; an id counts where start <= id < stop and
    `allowed` has it.

    stats(hidden [N, D], weight [D, Vc], labels int32 [N], inverse_temperature f32 [N], allowed int32 [N, 2],
        first, start, stop) -> Stats of this chunk
    cotangent(hidden, weight, labels, inverse_temperature, allowed, lse, mean, g, e, first, start, stop)
        -> d loss / d logits [N, Vc] in hidden's dtype, where lse and mean are those of the whole vocabulary and g, e
        f32 [N] are the cotangents of log-probability and entropy
    whole: `stats` reads the whole weight [D, V] where it lies; otherwise it is given chunks that are copied out of it.
    """

    stats: Callable[..., "Stats"]
    cotangent: Callable[..., jax.Array]
    whole: bool = False


class Rows(NamedTuple):
    """What else there is of a row: no gradient reaches these."""

    labels: jax.Array  # int32 [N]
    inverse_temperature: jax.Array  # float32 [N]
    allowed: jax.Array  # int32 [N, 2]


def log_prob(engine, hidden, weight, labels, *, temperature, allowed, entropy, chunk=None):
    """hidden [N, D], weight [D, V] -> log_prob float32 [N], or (log_prob, entropy): see `linear_log_prob`.

    chunk: ids read at a time, by default what CHUNK_BYTES holds. Gradients go to hidden and weight, in their dtypes
    (that of hidden is summed in float32); there is none for the temperature.
    """
    rows, vocabulary = hidden.shape[0], weight.shape[1]
    inverse = 1 / jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), (rows,))
    if allowed is None:
        allowed = jnp.broadcast_to(jnp.array([0, vocabulary], jnp.int32), (rows, 2))
    per_row = Rows(jnp.asarray(labels, jnp.int32), inverse, allowed.astype(jnp.int32))
    chunk = chunk_size(hidden, weight) if chunk is None else min(chunk, vocabulary)
    out = _log_prob(engine, chunk, hidden, weight, per_row)
    return out if entropy else out[0]


def chunk_size(hidden, weight) -> int:
    """Ids of a chunk: CHUNK_BYTES of weight or of logits, and chunks of nearly one size, so that the last one, which
    is moved back to end with the vocabulary, reads few ids twice."""
    width, vocabulary = weight.shape
    most = CHUNK_BYTES // (max(width, hidden.shape[0]) * weight.dtype.itemsize)
    chunks = -(-vocabulary // max(most // UNIT * UNIT, UNIT))
    return min(vocabulary, -(-vocabulary // (chunks * UNIT)) * UNIT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_prob(engine, chunk, hidden, weight, rows):
    return _forward(engine, chunk, hidden, weight, rows)[0]


def _forward(engine, chunk, hidden, weight, rows):
    vocabulary = weight.shape[1]

    def part(i):
        first, start, stop = _span(i, chunk, vocabulary)
        return engine.stats(hidden, _cut(weight, first, chunk), *rows, first, start, stop)

    if engine.whole:
        stats = engine.stats(hidden, weight, *rows, 0, 0, vocabulary)
    else:
        stats = merge(jax.lax.map(part, jnp.arange(-(-vocabulary // chunk), dtype=jnp.int32)))
    out = stats.label - stats.lse, stats.lse - stats.mean
    return out, (hidden, weight, rows, stats.lse, stats.mean)


def _backward(engine, chunk, residuals, cotangents):
    hidden, weight, rows, lse, mean = residuals
    g, e = (x.astype(jnp.float32) for x in cotangents)
    vocabulary = weight.shape[1]

    def part(carry, i):
        d_hidden, d_weight = carry
        first, start, stop = _span(i, chunk, vocabulary)
        w = _cut(weight, first, chunk)
        dz = engine.cotangent(hidden, w, *rows, lse, mean, g, e, first, start, stop)
        d_hidden += _product("NV,DV->ND", dz, w)
        # Ids of the neighbour that a moved chunk holds have dz = 0, and every other id is added to nothing.
        dw = _product("ND,NV->DV", hidden, dz).astype(weight.dtype)
        d_weight = jax.lax.dynamic_update_slice(d_weight, _cut(d_weight, first, chunk) + dw, (0, first))
        return (d_hidden, d_weight), None

    start = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(weight)
    chunks = jnp.arange(-(-vocabulary // chunk), dtype=jnp.int32)
    (d_hidden, d_weight), _ = jax.lax.scan(part, start, chunks)
    return d_hidden.astype(hidden.dtype), d_weight, None


_log_prob.defvjp(_forward, _backward)


def _span(i, chunk, vocabulary):
    """Chunk i of the vocabulary: the id of its first column, and which ids it counts; the last one is moved back."""
    return jnp.minimum(i * chunk, vocabulary - chunk), i * chunk, jnp.minimum((i + 1) * chunk, vocabulary)


def _cut(weight, first, chunk):
    return jax.lax.dynamic_slice_in_dim(weight, first, chunk, axis=1)


def _product(spec, a, b):
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32, precision=precision)


def merge(parts: Stats) -> Stats:
    """Stats of disjoint sets of ids, stacked [parts, N] -> those of their union, [N]."""
    lse = jax.nn.logsumexp(parts.lse, axis=0)
    return Stats(parts.label.max(0), lse, jnp.sum(jnp.exp(parts.lse - lse) * parts.mean, axis=0))


def inside(ids, interval):
    """Are `ids` in the half-open `interval` [..., 2], which wraps round where its first end exceeds its second?"""
    first, second = interval[..., 0:1], interval[..., 1:2]
    return jnp.where(first <= second, (ids >= first) & (ids < second), (ids >= first) | (ids < second))


def reach(allowed, start, stop, tiles: int, tile: int, block: int):
    """What blocks of `block` rows see of `tiles` tiles of `tile` columns: (any, all) bool [row blocks, tiles].

    any: some row counts some id of the tile; all: every row counts every id of it. Ids are those of the columns.
    """
    a, b = allowed[:, :1], allowed[:, 1:]  # [N, 1]
    low = jnp.arange(tiles) * tile
    high = low + tile
    first, last = jnp.maximum(low, start), jnp.minimum(high, stop)
    some = jnp.where(a <= b, jnp.maximum(first, a) < jnp.minimum(last, b), (first < b) | (last > a))
    every = jnp.where(a <= b, (a <= low) & (high <= b), (high <= b) | (a <= low))
    some, every = some & (first < last), every & (start <= low) & (high <= stop)
    rows = lambda x: jnp.pad(x, [(0, -len(x) % block), (0, 0)], mode="edge").reshape(-1, block, tiles)
    return rows(some).any(1), rows(every).all(1)


def live(ids, allowed, start, stop):
    """Which `ids` count: bool [N, len(ids)], or [N, 1] for ids [N, 1]."""
    return (ids >= start) & (ids < stop) & inside(ids, allowed)


def columns(labels, allowed, first, start, stop):
    """Labels, intervals and bounds as columns of a chunk whose first id is `first`; a label that is not live is -1."""
    labels, allowed, start, stop = labels - first, allowed - first, start - first, stop - first
    return jnp.where(live(labels[:, None], allowed, start, stop)[:, 0], labels, -1), allowed, start, stop


def _stats(hidden, weight, labels, inverse_temperature, allowed, first, start, stop):
    """`Engine.stats` in XLA: the logits of the chunk exist in float32."""
    ids = first + jnp.arange(weight.shape[1])
    z = _product("ND,DV->NV", hidden, weight) * inverse_temperature[:, None]
    z = jnp.where(live(ids, allowed, start, stop), z, MASKED)
    lse = jax.nn.logsumexp(z, axis=-1)
    label = jnp.max(jnp.where(ids == labels[:, None], z, MASKED), axis=-1)
    return Stats(label, lse, jnp.sum(jnp.exp(z - lse[:, None]) * z, axis=-1))


def _cotangent(hidden, weight, labels, inverse_temperature, allowed, lse, mean, g, e, first, start, stop):
    """`Engine.cotangent` in XLA: the logits of the chunk exist in float32."""
    ids = first + jnp.arange(weight.shape[1])
    column = lambda x: x[:, None]
    z = _product("ND,DV->NV", hidden, weight) * column(inverse_temperature)
    p = jnp.exp(z - column(lse))
    dz = column(g) * ((ids == column(labels)) - p) - column(e) * p * (z - column(mean))
    dz = jnp.where(live(ids, allowed, start, stop), dz * column(inverse_temperature), 0.0)
    return dz.astype(hidden.dtype)


XLA = Engine(_stats, _cotangent)
