"""Backward pass of attention of rows on keys, for Hopper and Blackwell: two kernels, each sum one warpgroup's.

B scenes, J kv heads, X rows of a kv head, S keys, E head width. With the log-sum-exp known, p = exp(scale · q·k - lse)
and ds = p · (do·v - delta) need no other key: rows walk over the keys that they see for dq, keys over the rows that see
them for dk and dv, and nothing is added up in device memory. dk and dv of a kv head are over the rows of all its
query heads, which are packed.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels.gpu import blocks as table
from ar1_kernels.gpu import operands
from ar1_kernels.gpu import warpgroup as wg
from ar1_kernels.gpu.products import UNITS, across, down
from ar1_kernels.gpu.warpgroup import LOG2E, Stream
from ar1_kernels.packed import Seen


def backward(q, k, v, seen: Seen, lse, delta, do, *, scale, blocks=None, interpret=False):
    """q, do [B,J,X,E], k and v [B,J,S,E] in bfloat16, lse and delta float32 [B,J,X] -> dq float32 [B,J,X,E], dk and dv
    [B,J,S,E] in k's dtype, summed in float32.

    lse may be over more keys than these; delta: sum(do · out). ValueError for what operands.refusal names.
    """
    operands.check(q, scale)
    rows, keys, width = q.shape[2], k.shape[2], q.shape[3]
    size = table.here("backward", rows, blocks)
    whole = math.lcm(size.rows, size.keys)  # rows and keys are in turn what stays and what passes
    whole_rows = wg.round_up(rows, whole)
    seen = operands.padded(seen, whole_rows, wg.round_up(keys, whole))
    q, do = (operands.prepare(x, interpret, whole, rows=whole_rows) for x in (q, do.astype(q.dtype)))
    k, v = (operands.prepare(x, interpret, whole) for x in (k, v))
    lse, delta = (wg.pad(x, 2, whole_rows) for x in (lse, delta))
    run = functools.partial(_launch, seen=seen, size=size, scale=scale, interpret=interpret)
    bounds = operands.walk(*operands.seen_blocks(seen, keys, size.rows, size.keys), masked_first=False)
    (dq,) = run("rows", q, do, k, v, bounds, lse, delta)
    by_key = (x.swapaxes(1, 2) for x in operands.seen_blocks(seen, keys, size.keys, size.rows))
    dk, dv = run("keys", k, v, q, do, operands.walk(*by_key, masked_first=True), lse, delta)
    return dq[:, :, :rows, :width], dk[:, :, :keys, :width], dv[:, :, :keys, :width]


def _launch(
    kind, first, second, other_first, other_second, bounds, lse, delta, *, seen, size, scale, interpret
):
    """The kernel in which `first` and `second` stay and blocks of the other pair pass by: kind "rows" (q, do stay) or
    "keys" (k, v stay)."""
    batch, heads, n, width = first.shape
    segments = seen.row_ids is not None
    tile = lambda dtype: plgpu.SMEM((size.consumers, size.tile, width), dtype)
    mine = lambda dtype: plgpu.SMEM((size.consumers, size.tile), dtype)
    theirs = lambda dtype: plgpu.SMEM((size.stages, size.keys), dtype)
    by_row = mine if kind == "rows" else theirs
    by_key = theirs if kind == "rows" else mine
    vectors = [by_row(jnp.float32), by_row(jnp.float32), by_row(jnp.int32)]
    vectors += [by_row(jnp.int32), by_key(jnp.int32)] if segments else []
    of_rows, of_keys = 3 + segments, int(segments)
    stay, passing = (of_rows, of_keys) if kind == "rows" else (of_keys, of_rows)
    outs = [jnp.float32] if kind == "rows" else [first.dtype, first.dtype]
    return wg.launch(
        f"flash_backward_{kind}",
        functools.partial(_kernel, kind=kind, size=size, scale=scale, segments=segments, interpret=bool(interpret)),
        grid={"blocks": -(-n // size.rows), "heads": heads, "batch": batch}, consumers=size.consumers,
        out_type=[jax.ShapeDtypeStruct(first.shape, dtype) for dtype in outs],
        scratch_types=dict(
            tiles=(tile(first.dtype), tile(first.dtype)), outs=[tile(dtype) for dtype in outs], vectors=vectors,
            loaded=plgpu.Barrier(num_arrivals=2 + stay, num_barriers=size.consumers),
            stream=Stream.types(size.stages, size.keys, width, first.dtype, size.consumers, extra=passing),
            memory=UNITS[size.unit].scratch(size.consumers, size.keys, width, len(outs), first.dtype),
        ),
        interpret=interpret,
    )(first, second, other_first, other_second, bounds, lse, delta, *jax.tree.leaves(seen))  # fmt: skip


def _kernel(
    first_ref, second_ref, other_first_ref, other_second_ref, bounds_ref, lse_ref, delta_ref, limit_ref, *rest,
    tiles, outs, vectors, loaded, stream, memory, kind, size, scale, segments, interpret,
):  # fmt: skip
    """Device memory: first_ref, second_ref [B,J,n,E] stay, the others [B,J,·,E] pass; bounds_ref [B, n blocks, 3];
    lse_ref, delta_ref [B,J,X], limit_ref and row ids [B,X], key ids [B,S]; results [B,J,n,E]. Shared memory of C
    consumers of T rows: tiles and outs [C,T,E]; vectors lse, delta, limit, row ids, key ids: [C,T] of what stays,
    [stages, keys] of what passes."""
    ids, out_refs = rest[: 2 * segments], rest[2 * segments :]
    batch, head, block = lax.axis_index("batch"), lax.axis_index("heads"), lax.axis_index("blocks")
    start, change, stop = (bounds_ref[batch, block, i] for i in range(3))
    by_row = [(lse_ref.at[batch, head], vectors[0]), (delta_ref.at[batch, head], vectors[1]),
              (limit_ref.at[batch], vectors[2])]  # fmt: skip
    by_key = []
    if segments:
        by_row.append((ids[0].at[batch], vectors[3]))
        by_key.append((ids[1].at[batch], vectors[4]))
    stay, passing = (by_row, by_key) if kind == "rows" else (by_key, by_row)
    stream = Stream(*stream, vectors=bool(passing))

    def consume(me):
        mine = UNITS[size.unit].of(memory, me, interpret)
        place = block * size.rows + me * size.tile
        at = (batch, head, pl.ds(place, size.tile))
        for source, tile in zip((first_ref, second_ref), tiles):
            plgpu.copy_gmem_to_smem(source.at[at], tile.at[me], loaded.at[me])
        for source, vector in stay:
            plgpu.copy_gmem_to_smem(source.at[pl.ds(place, size.tile)], vector.at[me], loaded.at[me])
        plgpu.barrier_wait(loaded.at[me])
        step = functools.partial(
            _row_step if kind == "rows" else _key_step, first=tiles[0].at[me], second=tiles[1].at[me], place=place,
            start=start, me=me, stream=stream, vectors=vectors, scale=scale, unit=mine)  # fmt: skip
        sums = tuple(mine.start(n, tiles[0].shape[-1]) for n in range(len(outs)))
        edges = (start, change, stop)
        for masked, (low, high) in zip((kind == "keys", kind == "rows"), zip(edges, edges[1:])):
            sums = lax.fori_loop(low, high, functools.partial(step, masked=masked), sums)
        for n, (out, factor) in enumerate(zip(outs, (scale, 1.0))):
            mine.write(n, sums[n], out.at[me], lambda x, factor=factor: x * factor)
        plgpu.commit_smem()
        for out, out_ref in zip(outs, out_refs):
            plgpu.copy_smem_to_gmem(out.at[me], out_ref.at[at])
        plgpu.wait_smem_to_gmem(0)

    def produce():
        def fetch(i, _):
            rows = pl.ds(i * size.keys, size.keys)
            extra = [(source.at[rows], ring) for source, ring in passing]
            pair = (x.at[batch, head, rows] for x in (other_first_ref, other_second_ref))
            stream.fetch(i - start, *pair, extra)

        lax.fori_loop(start, stop, fetch, None)
        stream.drain(stop - start)

    wg.roles(size, consume, produce)


def _row_step(i, sums, *, masked, first, second, place, start, me, stream, vectors, scale, unit):
    """dq of a tile of rows += ds · k for block i of keys; first, second: the rows' q and do [T, E]."""
    (dq,), slot, keys = sums, stream.slot(i - start), stream.first.shape[1]
    plgpu.barrier_wait(stream.full_first.at[slot])
    s = unit.scores(first, stream.first.at[slot])
    p = jnp.exp2(s * (scale * LOG2E) - down(vectors[0][me] * LOG2E, s.shape))
    if masked:
        ids = (vectors[3][me], vectors[4][slot]) if len(vectors) > 3 else None
        p = jnp.where(operands.mask(vectors[2][me], ids, i * keys, s.shape), p, 0.0)
    plgpu.barrier_wait(stream.full_second.at[slot])
    dp = unit.scores(second, stream.second.at[slot])
    plgpu.barrier_arrive(stream.free_second.at[slot])
    ds = (p * (dp - down(vectors[1][me], s.shape))).astype(stream.first.dtype)
    dq = unit.add(0, dq, ds, stream.first.at[slot])
    stream.release_first(slot)
    return (dq,)


def _key_step(i, sums, *, masked, first, second, place, start, me, stream, vectors, scale, unit):
    """dk of a tile of keys += ds^T · q, dv += p^T · do for block i of rows; first, second: the keys' k and v [T, E]."""
    (dk, dv), slot = sums, stream.slot(i - start)
    plgpu.barrier_wait(stream.full_first.at[slot])
    s = unit.scores(first, stream.first.at[slot])  # [keys, rows]
    p = jnp.exp2(s * (scale * LOG2E) - across(vectors[0][slot] * LOG2E, s.shape))
    if masked:
        key = lax.broadcasted_iota(jnp.int32, s.shape, 0) + place
        live = key < across(vectors[2][slot], s.shape)
        if len(vectors) > 3:
            live &= across(vectors[3][slot], s.shape) == down(vectors[4][me], s.shape)
        p = jnp.where(live, p, 0.0)
    plgpu.barrier_wait(stream.full_second.at[slot])
    dv = unit.add(1, dv, p.astype(stream.second.dtype), stream.second.at[slot])
    dp = unit.scores(second, stream.second.at[slot])
    ds = (p * (dp - across(vectors[1][slot], s.shape))).astype(stream.first.dtype)
    plgpu.barrier_arrive(stream.free_second.at[slot])
    dk = unit.add(0, dk, ds, stream.first.at[slot])
    stream.release_first(slot)
    return dk, dv
