"""Attention of rows on keys for Hopper and Blackwell.

B scenes, J kv heads, X rows of a kv head (all queries of all its query heads), S keys, E head width. A block of
threads holds a tile of rows for each of its consumers and walks over the keys that they see (packed.Seen), which one
more warpgroup fetches ahead; blocks of keys that no row sees are neither fetched nor computed. Backward: backward.py.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels.gpu import blocks as table
from ar1_kernels.gpu import warpgroup as wg
from ar1_kernels.gpu.backward import backward
from ar1_kernels.gpu.operands import check, mask, padded, prepare, refusal, seen_blocks, walk
from ar1_kernels.gpu.products import UNITS
from ar1_kernels.gpu.warpgroup import Softmax, Stream
from ar1_kernels.packed import Seen

__all__ = ["backward", "forward", "refusal"]


def forward(q, k, v, seen: Seen, *, scale, out_dtype, blocks=None, interpret=False):
    """q [B,J,X,E], k and v [B,J,S,E] in bfloat16 -> normalised values [B,J,X,E] in out_dtype, log-sum-exp f32 [B,J,X].

    0 and MASKED for a row that sees no key. out_dtype: bfloat16; results in float32 are too large for the table's sizes
    where E is 128. ValueError for what `refusal` names.
    """
    check(q, scale)
    batch, heads, rows, width = q.shape
    keys, size = k.shape[2], table.here("forward", rows, blocks)
    whole_rows = wg.round_up(rows, size.rows)
    seen = padded(seen, whole_rows, wg.round_up(keys, size.keys))
    segments = seen.row_ids is not None
    bounds = walk(*seen_blocks(seen, keys, size.rows, size.keys), masked_first=False)
    q = prepare(q, interpret, size.rows, rows=whole_rows)
    k, v = (prepare(x, interpret, size.keys) for x in (k, v))
    tile = lambda dtype: plgpu.SMEM((size.consumers, size.tile, q.shape[3]), dtype)
    vector = lambda dtype: plgpu.SMEM((size.consumers, size.tile), dtype)
    out, lse = wg.launch(
        "flash_forward",
        functools.partial(_forward_kernel, scale=scale, size=size, segments=segments, interpret=bool(interpret)),
        grid={"rows": whole_rows // size.rows, "heads": heads, "batch": batch}, consumers=size.consumers,
        out_type=[jax.ShapeDtypeStruct(q.shape, out_dtype), jax.ShapeDtypeStruct(q.shape[:3], jnp.float32)],
        scratch_types=dict(
            q=tile(q.dtype), out=tile(out_dtype), lse=vector(jnp.float32), limit=vector(jnp.int32),
            loaded=plgpu.Barrier(num_arrivals=3 if segments else 2, num_barriers=size.consumers),
            ids=(vector(jnp.int32), plgpu.SMEM((size.stages, size.keys), jnp.int32)) if segments else None,
            stream=Stream.types(size.stages, size.keys, q.shape[3], k.dtype, size.consumers, extra=int(segments)),
            memory=UNITS[size.unit].scratch(size.consumers, size.keys, q.shape[3], 1, v.dtype),
        ),
        interpret=interpret,
    )(q, k, v, bounds, *jax.tree.leaves(seen))  # fmt: skip
    return out[:, :, :rows, :width], lse[:, :, :rows]


def _forward_kernel(
    q_ref, k_ref, v_ref, bounds_ref, limit_ref, *rest, q, out, lse, limit, loaded, ids, stream, memory, scale,
    size, segments, interpret,
):  # fmt: skip
    """Device memory: q_ref [B,J,X,E], k_ref, v_ref [B,J,S,E], bounds_ref [B, X blocks, 3], limit_ref [B,X], and with
    segments row ids [B,X] and key ids [B,S]; out_ref [B,J,X,E], lse_ref [B,J,X]. Shared memory of C consumers:
    q, out [C,T,E], lse, limit [C,T], ids ([C,T], [stages, keys]), T rows of a tile."""
    *id_refs, out_ref, lse_ref = rest
    stream = Stream(*stream, vectors=segments)
    batch, head = lax.axis_index("batch"), lax.axis_index("heads")
    block = _last_first("rows", q_ref.shape[2] // size.rows)
    start, change, stop = (bounds_ref[batch, block, i] for i in range(3))

    def consume(me):
        mine = UNITS[size.unit].of(memory, me, interpret)
        rows = pl.ds(block * size.rows + me * size.tile, size.tile)
        plgpu.copy_gmem_to_smem(q_ref.at[batch, head, rows], q.at[me], loaded.at[me])
        plgpu.copy_gmem_to_smem(limit_ref.at[batch, rows], limit.at[me], loaded.at[me])
        if segments:
            plgpu.copy_gmem_to_smem(id_refs[0].at[batch, rows], ids[0].at[me], loaded.at[me])
        plgpu.barrier_wait(loaded.at[me])
        last, row_ids = limit[me], ids[0][me] if segments else None

        def step(i, state, masked):
            key_ids = lambda: (row_ids, ids[1][stream.slot(i - start)]) if segments else None
            live = lambda shape: mask(last, key_ids(), i * size.keys, shape)
            take = functools.partial(Softmax(*state).take, mine, scale=scale)
            return tuple(take(q.at[me], stream, i - start, live=live if masked else None))

        state = tuple(Softmax.empty(mine, q.shape[-1]))
        state = lax.fori_loop(start, change, functools.partial(step, masked=False), state)
        state = lax.fori_loop(change, stop, functools.partial(step, masked=True), state)
        Softmax(*state).finish(mine, scale, out.at[me], lse.at[me])
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out.at[me], out_ref.at[batch, head, rows])
        plgpu.copy_smem_to_gmem(lse.at[me], lse_ref.at[batch, head, rows])
        plgpu.wait_smem_to_gmem(0)

    def produce():
        def fetch(i, _):
            keys = pl.ds(i * size.keys, size.keys)
            extra = ((id_refs[1].at[batch, keys], ids[1]),) if segments else ()
            stream.fetch(i - start, k_ref.at[batch, head, keys], v_ref.at[batch, head, keys], extra)

        lax.fori_loop(start, stop, fetch, None)
        stream.drain(stop - start)

    wg.roles(size, consume, produce)


def _last_first(axis, n):
    """Block of this program along `axis` of n blocks: causal rows with the most keys begin first."""
    return n - 1 - lax.axis_index(axis)
