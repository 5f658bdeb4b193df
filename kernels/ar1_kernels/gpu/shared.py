"""Attention of K sequences on a prefix stored once, each one's suffix and own keys, in one launch, for GPUs.

B scenes, J kv heads, K sequences a scene, N queries a sequence, R query heads a kv head, C = N·R rows of a sequence
(row n·R + r), S prefix, L suffix, E head width. The launch is a list of items that as many blocks of threads as the
chip has multiprocessors take in turn; a producer warpgroup fetches the next item's keys while the present one ends.
An item is a tile of rows and up to three runs of keys, joined by the online softmax:

- few rows a sequence (decode): the rows of all sequences against a part of the prefix, so that one fetch serves all
  of them and the parts of one scene fill the chip; and the rows of a sequence against its suffix and own keys. The
  items' normalised values are joined by their log-sum-exp (flash-decoding; Hydragen, arXiv 2402.05099).
- many rows (expert, learner): a tile of one sequence's rows against prefix, suffix and own keys; nothing to join.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels.gpu import blocks as table
from ar1_kernels.gpu import warpgroup as wg
from ar1_kernels.gpu.operands import check, prepare, refusal
from ar1_kernels.gpu.products import MULTIPROCESSORS, UNITS
from ar1_kernels.gpu.warpgroup import Softmax, Stream

__all__ = ["forward", "refusal"]


ALIGN = 8  # rows of a TMA tile


class Item(NamedTuple):
    """One line of the work list, int32 each. Blocks are of `keys` keys.

    head: b·J + j. row, result: first row of its tile in the queries and in the results, both in units of ALIGN so that
    the compiler sees that TMA tiles begin there; store: rows of it to store.
    first, whole, last: blocks of the prefix, those from `whole` on with a mask; live: length of the prefix.
    sequence: (b·K + k)·J + j; suffix, suffix_live: blocks and length of its suffix; own: blocks of its own keys;
    place: the tile's first row within its sequence.
    """

    head: jax.Array
    row: jax.Array
    result: jax.Array
    store: jax.Array
    first: jax.Array
    whole: jax.Array
    last: jax.Array
    live: jax.Array
    sequence: jax.Array
    suffix: jax.Array
    suffix_live: jax.Array
    own: jax.Array
    place: jax.Array


class Shape(NamedTuple):
    """Sizes of a call and of its launch; suffix, own: capacity in keys, 0: there are none; tile: a consumer's rows."""

    batch: int
    heads: int
    sequences: int
    rows: int
    prefix: int
    suffix: int
    own: int
    tile: int
    block_rows: int
    keys: int
    splits: int
    causal: bool

    @property
    def joined(self) -> bool:
        """A tile belongs to one sequence: its item joins all the keys that it sees."""
        return self.rows >= self.tile

    @property
    def stride(self) -> int:
        """Rows between two sequences in device memory: TMA tiles begin there."""
        return wg.round_up(self.rows, ALIGN)

    @property
    def together(self) -> int:
        """Rows of all sequences of a kv head, in whole tiles."""
        return wg.round_up(self.sequences * self.rows, self.block_rows)

    @property
    def group(self) -> int:
        """R: own key n is seen by rows from n·R on."""
        return self.rows // self.own if self.own else 1


def forward(
    q, prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, own_k, own_v, *, causal, scale,
    blocks=None, interpret=False,
):  # fmt: skip
    """q [B,J,K,C,E], prefix_k, prefix_v [B,J,S,E], prefix_length int32 [B]; suffix_k, suffix_v [B,K,J,L,E] and
    suffix_length int32 [B,K], or None; own_k, own_v [B,K,J,N,E], or None -> out [B,J,K,C,E] in q's dtype, log-sum-exp
    float32 [B,J,K,C]. bfloat16. causal: row c sees own keys up to c // R. 0 and -1e30 for a row that sees no key.
    """
    check(q, scale)
    batch, heads, sequences, rows, width = q.shape
    size = table.here("joined", rows, blocks)
    if rows < size.tile:
        size = table.here("together", sequences * rows, blocks)
    capacity = lambda x: 0 if x is None else x.shape[3]
    shape = Shape(batch, heads, sequences, rows, prefix_k.shape[2], capacity(suffix_k), capacity(own_k), size.tile,
                  size.rows, size.keys, 1, causal)  # fmt: skip
    if not shape.joined:
        shape = shape._replace(splits=_splits(shape, size))
    flat = lambda x: x.reshape(-1, *x.shape[-2:])
    sources = [prepare(flat(x), interpret, size.keys)
               for x in (prefix_k, prefix_v, suffix_k, suffix_v, own_k, own_v) if x is not None]  # fmt: skip
    queries = prepare(_queries(q, shape, interpret), interpret, 8)
    items = work(shape, prefix_length, suffix_length)
    tile = lambda dtype, n: plgpu.SMEM((n, size.tile, queries.shape[-1]), dtype)
    results = jax.ShapeDtypeStruct((batch * heads, _results(shape), queries.shape[-1]),
                                   q.dtype if shape.joined else jnp.float32)  # fmt: skip
    # Where items are short the next one's queries are fetched ahead too; where they are long it would cost the memory.
    ahead = 1 if shape.joined else 2
    barriers = lambda arrivals: plgpu.Barrier(num_arrivals=arrivals, num_barriers=ahead)
    out, lse = wg.launch(
        "shared_prefix",
        functools.partial(_kernel, shape=shape, scale=scale, size=size, interpret=bool(interpret)),
        grid={"programs": min(len(items), MULTIPROCESSORS[size.unit])}, consumers=size.consumers,
        out_type=[results, jax.ShapeDtypeStruct(results.shape[:2], jnp.float32)],
        scratch_types=dict(
            q=tile(q.dtype, ahead * size.consumers), q_full=barriers(size.consumers), q_free=barriers(size.consumers),
            out=tile(results.dtype, size.consumers), lse=plgpu.SMEM((size.consumers, size.tile), jnp.float32),
            stream=Stream.types(size.stages, size.keys, queries.shape[-1], q.dtype, size.consumers),
            memory=UNITS[size.unit].scratch(size.consumers, size.keys, queries.shape[-1], 1, q.dtype),
        ),
        interpret=interpret,
    )(items, queries, *sources)  # fmt: skip
    out, lse = _join(out[..., :width], lse, shape)
    return out.astype(q.dtype).reshape(q.shape), lse.reshape(q.shape[:-1])


def _splits(shape: Shape, size: table.Blocks):
    """Parts of the prefix: enough that the items of one scene fill the chip, at most one a block of keys."""
    tiles = shape.batch * shape.heads * (shape.together // shape.block_rows)
    wanted = size.splits or max(1, MULTIPROCESSORS[size.unit] // tiles)
    return max(1, min(wanted, -(-shape.prefix // shape.keys)))


def _queries(q, shape: Shape, interpret):
    """q [B,J,K,C,E] -> rows [B·J, ·, E]: of all sequences together, then of each from a multiple of 8 on; the last only
    where a tile belongs to one sequence."""
    q = q.reshape(-1, *q.shape[2:])
    apart = wg.pad(q, 2, shape.stride).reshape(len(q), -1, q.shape[-1])
    if interpret:
        apart = wg.pad(apart, 1, apart.shape[1] + shape.block_rows)
    if shape.joined:
        return apart
    together = wg.pad(q.reshape(len(q), -1, q.shape[-1]), 1, shape.together)
    return jnp.concatenate([together, apart], axis=1) if shape.suffix or shape.own else together


def _results(shape: Shape) -> int:
    """Rows of a kv head's results."""
    apart = shape.sequences * shape.stride
    if shape.joined:
        return apart
    return shape.splits * shape.together + (apart if shape.suffix or shape.own else 0)


def work(shape: Shape, prefix_length, suffix_length):
    """The work list, int32 [items, fields of Item]: the same for every length but for its runs of keys."""
    blocks = lambda length: -(-length // shape.keys)
    prefix_length = jnp.minimum(jnp.asarray(prefix_length, jnp.int32), shape.prefix)
    if shape.suffix:
        suffix_length = jnp.minimum(jnp.asarray(suffix_length, jnp.int32), shape.suffix)
    parts = []
    if not shape.joined:
        b, j, part, tile = _grid(shape.batch, shape.heads, shape.splits, shape.together // shape.block_rows)
        live = blocks(prefix_length)[b]
        each = -(-live // shape.splits)
        last = jnp.minimum((part + 1) * each, live)
        first = jnp.minimum(part * each, last)
        row = tile * shape.block_rows
        parts.append(Item(
            head=b * shape.heads + j, row=row // ALIGN, result=(part * shape.together + row) // ALIGN,
            store=shape.block_rows, first=first, whole=jnp.clip(prefix_length[b] // shape.keys, first, last), last=last,
            live=prefix_length[b], sequence=0, suffix=0, suffix_live=0, own=0, place=0))  # fmt: skip
    if shape.joined or shape.suffix or shape.own:
        b, j, k, tile = _grid(shape.batch, shape.heads, shape.sequences, -(-shape.stride // shape.block_rows))
        place = tile * shape.block_rows
        row = k * shape.stride + place
        live = prefix_length[b] if shape.joined else jnp.zeros(b.shape, jnp.int32)
        suffix_live = suffix_length[b, k] if shape.suffix else jnp.zeros(b.shape, jnp.int32)
        own = (
            np.minimum((place + shape.block_rows - 1) // shape.group + 1, shape.own)
            if shape.causal
            else shape.own
        )
        lead = (0, 0) if shape.joined else (shape.together, shape.splits * shape.together)
        parts.append(Item(
            head=b * shape.heads + j, row=(lead[0] + row) // ALIGN, result=(lead[1] + row) // ALIGN,
            store=np.minimum(shape.block_rows, shape.stride - place),
            first=0, whole=live // shape.keys, last=blocks(live), live=live,
            sequence=(b * shape.sequences + k) * shape.heads + j,
            suffix=blocks(suffix_live), suffix_live=suffix_live, own=blocks(own), place=place))  # fmt: skip
    columns = lambda item: jnp.stack(
        jnp.broadcast_arrays(*(jnp.asarray(x, jnp.int32) for x in item)), axis=-1
    )
    return jnp.concatenate([columns(item) for item in parts])


def _grid(*sizes):
    """Indices of a row-major grid, one flat array each."""
    return (x.reshape(-1) for x in np.indices(sizes))


def _kernel(
    items_ref, q_ref, prefix_k, prefix_v, *rest, q, q_full, q_free, out, lse, stream, memory, shape, scale, size,
    interpret,
):  # fmt: skip
    """Device memory: items_ref [items, fields], q_ref [B·J, rows, E], prefix [B·J,S,E], suffix [B·K·J,L,E] and own
    [B·K·J,N,E] where there are any, out_ref [B·J, results, E], lse_ref [B·J, results]. Shared memory: q
    [ahead · consumers, T, E], out [consumers, T, E], lse [consumers, T], T rows of a consumer."""
    *sources, out_ref, lse_ref = rest
    runs = {"prefix": (prefix_k, prefix_v)}
    for name, capacity in (("suffix", shape.suffix), ("own", shape.own)):
        if capacity:
            runs[name] = (sources.pop(0), sources.pop(0))
    stream = Stream(*stream)
    ahead = q.shape[0] // size.consumers
    program, programs = lax.axis_index("programs"), min(items_ref.shape[0], MULTIPROCESSORS[size.unit])
    turns = lax.div(items_ref.shape[0] - 1 - program, jnp.int32(programs)) + 1
    item = lambda n: Item(*(items_ref[program + n * programs, i] for i in range(len(Item._fields))))

    def consume(me):
        multiply = UNITS[size.unit].of(memory, me, interpret)

        def turn(n, u):
            it, slot = item(n), lax.rem(n, jnp.int32(ahead))
            plgpu.barrier_wait(q_full.at[slot])
            mine = q.at[slot * size.consumers + me]
            state, u = _attend(it, multiply, mine, stream, u, me * size.tile, shape, scale)
            plgpu.barrier_arrive(q_free.at[slot])
            state.finish(multiply, scale, out.at[me], lse.at[me])
            plgpu.commit_smem()
            _store(it, me, out, lse, out_ref, lse_ref, shape)
            return u

        lax.fori_loop(0, turns, turn, jnp.int32(0))

    def produce():
        def turn(n, u):
            it, slot = item(n), lax.rem(n, jnp.int32(ahead))

            @pl.when(n >= ahead)
            def _():
                plgpu.barrier_wait(q_free.at[slot])

            for me in range(size.consumers):
                rows, to = pl.ds(it.row * ALIGN + me * size.tile, size.tile), q.at[slot * size.consumers + me]
                plgpu.copy_gmem_to_smem(q_ref.at[it.head, rows], to, q_full.at[slot])
            for name, lead, first, last in (
                ("prefix", it.head, it.first, it.last),
                ("suffix", it.sequence, 0, it.suffix),
                ("own", it.sequence, 0, it.own),
            ):
                if name in runs:
                    u = _fetch(stream, u, runs[name], lead, first, last)
            return u

        stream.drain(lax.fori_loop(0, turns, turn, jnp.int32(0)))
        wait = lambda n, _: plgpu.barrier_wait(q_free.at[lax.rem(n, jnp.int32(ahead))])
        lax.fori_loop(jnp.maximum(turns - ahead, 0), turns, wait, None)

    wg.roles(size, consume, produce)


def _fetch(stream, u, source, lead, first, last):
    """Producer: blocks first..last of source's array `lead` into the stream from its block u on; returns the next u."""
    keys = stream.first.shape[1]

    def fetch(i, _):
        at = (lead, pl.ds(i * keys, keys))
        stream.fetch(u + i - first, *(x.at[at] for x in source))

    lax.fori_loop(first, last, fetch, None)
    return u + last - first


def _attend(item, unit, q, stream, u, row, shape, scale):
    """Consumer: all keys of `item` from block u of the stream on, for its rows from `row` of the tile on.

    Returns the softmax and the next u.
    """
    take = functools.partial(_take, unit=unit, q=q, stream=stream, scale=scale)
    tail = item.last - item.whole

    def mask(n, tile):
        in_suffix, in_own = n >= tail, n >= tail + item.suffix
        pick = lambda prefix, suffix, own: jnp.where(in_own, own, jnp.where(in_suffix, suffix, prefix))
        block = pick(item.whole + n, n - tail, n - tail - item.suffix)
        key = lax.broadcasted_iota(jnp.int32, tile, 1) + block * shape.keys
        live = key < pick(item.live, item.suffix_live, shape.own)
        if shape.own and shape.causal:  # row >= key · R; elsewhere the key counts nothing
            place = lax.broadcasted_iota(jnp.int32, tile, 0) + (item.place + row)
            live &= key * jnp.where(in_own, shape.group, 0) <= place
        return live

    state = tuple(Softmax.empty(unit, q.shape[-1]))
    state = lax.fori_loop(item.first, item.whole, lambda i, s: take(s, u + i - item.first, live=None), state)
    u = u + item.whole - item.first
    masked = tail + item.suffix + item.own
    state = lax.fori_loop(0, masked, lambda n, s: take(s, u + n, live=functools.partial(mask, n)), state)
    return Softmax(*state), u + masked


def _take(state, u, *, unit, q, stream, live, scale):
    return tuple(Softmax(*state).take(unit, q, stream, u, scale=scale, live=live))


def _store(item, me, out, lse, out_ref, lse_ref, shape):
    """Consumer `me` copies its rows out, of the last tile of a sequence only those that are the sequence's own."""
    left = item.store - me * shape.tile

    def copy(n):
        at = (item.head, pl.ds(item.result * ALIGN + me * shape.tile, n))
        plgpu.copy_smem_to_gmem(out.at[me, pl.ds(0, n)], out_ref.at[at])
        plgpu.copy_smem_to_gmem(lse.at[me, pl.ds(0, n)], lse_ref.at[at])

    pl.when(left >= shape.tile)(lambda: copy(shape.tile))
    if rest := shape.stride % shape.tile:
        pl.when(left == rest)(lambda: copy(rest))
    plgpu.wait_smem_to_gmem(0)


def _join(out, lse, shape: Shape):
    """Results [B·J, rows, E] and log-sum-exp of the items -> of the sequences' rows [B·J, K·C, E] and [B·J, K·C]."""
    cut = lambda x: x.reshape(len(x), shape.sequences, shape.stride, *x.shape[2:])[
        :, :, : shape.rows
    ].reshape(len(x), shape.sequences * shape.rows, *x.shape[2:])
    if shape.joined:
        return cut(out), cut(lse)
    count, behind = shape.sequences * shape.rows, shape.splits * shape.together

    def parts(x):
        prefix = x[:, :behind].reshape(len(x), shape.splits, shape.together, *x.shape[2:])[:, :, :count]
        return [prefix[:, i] for i in range(shape.splits)] + (
            [cut(x[:, behind:])] if x.shape[1] > behind else []
        )

    lses = jnp.stack(parts(lse))
    total = jax.nn.logsumexp(lses, axis=0)
    weights = jnp.exp(lses - total)
    return sum(w[..., None] * x for w, x in zip(weights, parts(out))), total
