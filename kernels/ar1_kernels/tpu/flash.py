"""Attention of X rows on S keys: rows resident in VMEM, keys streamed past them; forward and backward.

B scenes, J kv heads, X rows of a kv head (every query of every query head that reads it), S keys, E head width. The
grid walks (B, J, U, key blocks). All rows of a kv head lie in VMEM (U > 1 parts of them where they do not fit), and for
each block of keys an inner loop takes the row chunks that see any of it. So a key block is fetched once for all rows,
and a block that no row sees is neither fetched (the index map stays on the block before) nor computed.

Arrays in VMEM have 128 lanes whatever E is. Vectors over rows (limits, ids, log-sum-exp) lie in memory along the lanes,
as [chunks, rows of a chunk], and are turned to columns in the kernel where a tile needs them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ar1_kernels.attention import MASKED
from ar1_kernels.packed import Seen
from ar1_kernels.tpu import blocks as _blocks
from ar1_kernels.tpu.blocks import LANES, MIB, SUBLANES, Blocks

WIDEST = 128  # head width of one vector register
DEAD, PART, WHOLE = 0, 1, 2  # what the rows of a chunk see of a block of keys
NO_ID = 2**31 - 1


def refusal(dtype, width: int, kind: str) -> str | None:
    """Why the attention kernels cannot take this dtype and head width on a device of this kind, or None."""
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"{dtype} is neither bfloat16 nor float32"
    if width > WIDEST:
        return f"head width {width} is over {WIDEST}"
    if kind in ("TPU v2", "TPU v3"):
        return f"{kind} is older than v4, the first that the kernels are made for"
    return None


class Walk(NamedTuple):
    """How rows and keys are cut: X = parts · chunks · rows (padded), S in `blocks` of `keys` (the last one ragged)."""

    parts: int
    chunks: int
    rows: int
    blocks: int
    keys: int

    @property
    def resident(self):
        return self.chunks * self.rows


def walk(rows: int, keys: int, sizes: Blocks, row_bytes: int, fixed_bytes: int) -> Walk:
    """The cut of `rows` rows and `keys` keys. row_bytes: VMEM of a resident row; fixed_bytes: of all else."""
    chunks = -(-rows // sizes.rows)
    size = up(-(-rows // chunks), SUBLANES)
    resident = sizes.resident
    if resident is None:
        resident = max(size, (_blocks.chip().vmem * 7 // 8 - fixed_bytes) // row_bytes)
    parts = -(-chunks // max(1, resident // size))
    blocks = -(-keys // sizes.keys)
    return Walk(parts, -(-chunks // parts), size, blocks, up(-(-keys // blocks), LANES))


def up(n: int, unit: int) -> int:
    """n rounded up to a multiple of unit."""
    return -(-n // unit) * unit


def _pad_rows(x, cut: Walk, axis: int):
    """Rows at `axis` of x -> [..., parts, resident, ...], zeros behind the last."""
    short = cut.parts * cut.resident - x.shape[axis]
    x = jnp.pad(x, [(0, short if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], cut.parts, cut.resident, *x.shape[axis + 1 :])


def _by_chunk(x, cut: Walk):
    """[..., X] -> [..., parts, chunks, rows]."""
    x = _pad_rows(x, cut, x.ndim - 1)
    return x.reshape(*x.shape[:-1], cut.chunks, cut.rows)


class _Sight(NamedTuple):
    """What the kernels ask before they fetch or compute.

    fetch: int32 [B·parts·blocks], the block in VMEM at a step. end: int32 [B·parts], the first key that no row sees.
    code: int32 [B, parts, 1, blocks·chunks], DEAD, PART or WHOLE. limit and row_ids: int32 [B, parts, chunks, rows].
    """

    fetch: jax.Array
    end: jax.Array
    code: jax.Array
    limit: jax.Array
    row_ids: jax.Array | None


def _look(seen: Seen, keys: int, cut: Walk) -> _Sight:
    limit = _by_chunk(jnp.clip(seen.limit, 0, keys), cut)
    start = jnp.arange(cut.blocks, dtype=jnp.int32)[:, None] * cut.keys
    some = limit.max(axis=-1)[:, :, None] > start  # [B, parts, blocks, chunks]
    every = limit.min(axis=-1)[:, :, None] >= start + cut.keys
    row_ids = None
    if seen.row_ids is not None:
        row_ids = _by_chunk(seen.row_ids, cut)
        low, high = (x[:, :, None] for x in _range(row_ids, limit > 0))
        short = cut.blocks * cut.keys - keys
        ids = jnp.pad(seen.key_ids, ((0, 0), (0, short))).reshape(-1, 1, cut.blocks, 1, cut.keys)
        live = jnp.arange(cut.blocks * cut.keys).reshape(cut.blocks, 1, cut.keys) < keys
        first, last = _range(ids, live)
        some &= (first <= high) & (last >= low)
        every &= (first == last) & (low == high) & (first == low)
    code = jnp.where(some, jnp.where(every, WHOLE, PART), DEAD).astype(jnp.int32)
    live = some.any(axis=-1)
    before = jax.lax.cummax(jnp.where(live, jnp.arange(cut.blocks), -1), axis=2)
    fetch = jnp.where(before < 0, jnp.argmax(live, axis=2)[..., None], before).astype(jnp.int32)
    code = code.reshape(*code.shape[:2], 1, -1)
    return _Sight(fetch.reshape(-1), limit.max(axis=(2, 3)).reshape(-1), code, limit, row_ids)


def _range(ids, live):
    """Least and largest of the live ids over the last axis; an empty range where none is."""
    return jnp.where(live, ids, NO_ID).min(axis=-1), jnp.where(live, ids, -NO_ID).max(axis=-1)


def product(a, b, over=(1, 1)):
    """Matrix product in float32 over dimension over[0] of a and over[1] of b; float32 factors at full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def column(row):
    """[1, n] along the lanes -> [n, 1] along the sublanes."""
    return jnp.broadcast_to(row, (8, row.shape[1])).T[:, :1]


def places(start, n, axis):
    """start .. start + n - 1 as int32 [1, n] (axis 1) or [n, 1] (axis 0)."""
    return start + jax.lax.broadcasted_iota(jnp.int32, (1, n) if axis else (n, 1), axis)


class Softmax(NamedTuple):
    """Running softmax of the resident rows, in VMEM: acc float32 [X, E] = sum exp(score - peak) · value; peak float32
    [X, 128], the same in every lane; total float32 [X, 128], whose lanes add up to sum exp(score - peak)."""

    acc: jax.Array
    peak: jax.Array
    total: jax.Array

    @staticmethod
    def scratch(rows: int, width: int):
        return [pltpu.VMEM((rows, n), jnp.float32) for n in (width, LANES, LANES)]

    def clear(self, rows):
        self.acc[rows, :] = jnp.zeros_like(self.acc[rows, :])
        self.peak[rows, :] = jnp.full_like(self.peak[rows, :], MASKED)
        self.total[rows, :] = jnp.zeros_like(self.total[rows, :])

    def absorb(self, rows, q, k, v, scale, live=None):
        """Rows q [n, E] meet k, v [m, E]; live: bool, broadcasts to [n, m], None where every row sees every key.

        A row that has met no live key yet adds rubbish to its sums. When it meets the first, exp(MASKED - peak) = 0
        wipes that out; `finish` knows the rows that never met one.
        """
        scores = product(q, k) * scale  # [n, m]
        if live is not None:
            scores = jnp.where(live, scores, MASKED)
        before = self.peak[rows, :]
        peak = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        groups = scores.shape[1] // LANES
        p = jnp.exp(scores - jnp.concatenate([peak] * groups, axis=1))
        fade = jnp.exp(before - peak)
        total = fade * self.total[rows, :]
        for i in range(groups):
            total += p[:, i * LANES : (i + 1) * LANES]
        self.total[rows, :] = total
        self.peak[rows, :] = peak
        width = self.acc.shape[1]
        self.acc[rows, :] = self.acc[rows, :] * fade[:, :width] + product(p.astype(v.dtype), v, (1, 0))

    def finish(self, rows):
        """-> out float32 [n, E], log-sum-exp float32 [1, n]; 0 and MASKED for a row that met no live key."""
        peak = self.peak[rows, :]
        total = jnp.broadcast_to(self.total[rows, :].sum(axis=1, keepdims=True), peak.shape)
        met = peak > MASKED / 2
        lse = jnp.where(met, peak + jnp.log(total), MASKED)
        width = self.acc.shape[1]
        out = jnp.where(met[:, :width], self.acc[rows, :] / total[:, :width], 0.0)
        return out, lse.T[:1]


def _live(limit, row_ids, key_ids, c, place, turn):
    """Which keys the rows of chunk c see: bool [n, m], or [m, n] with turn=False where rows lie along the lanes."""
    limit = limit[pl.ds(c, 1), :]
    live = place < (column(limit) if turn else limit)
    if row_ids is not None:
        ids, keys = row_ids[pl.ds(c, 1), :], key_ids[...]
        live &= (column(ids) == keys) if turn else (ids == column(keys))
    return live


def _forward_kernel(cut: Walk, scale, has_ids, fetch, end, code, q, k, v, limit, *refs):
    """code [1, blocks·chunks] in SMEM; q [X, E]; k, v [keys, E]; limit, row_ids, lse [chunks, rows]; key_ids [1, keys];
    out [X, E]; X = chunks·rows."""
    row_ids, key_ids = refs[:2] if has_ids else (None, None)
    out, lse, *state = refs[2 * has_ids :]
    softmax = Softmax(*state)
    block = pl.program_id(3)
    stop = end[pl.program_id(0) * cut.parts + pl.program_id(2)]

    def chunk(c, _):
        rows = pl.ds(pl.multiple_of(c * cut.rows, SUBLANES), cut.rows)
        seen = code[0, block * cut.chunks + c]

        @pl.when(block == 0)
        def _():
            softmax.clear(rows)

        @pl.when(seen == WHOLE)
        def _():
            softmax.absorb(rows, q[rows, :], k[...], v[...], scale)

        @pl.when(seen == PART)
        def _():
            live = _live(limit, row_ids, key_ids, c, places(block * cut.keys, cut.keys, 1), turn=True)
            # Behind the last live key there may be anything, and 0 · NaN is NaN.
            values = jnp.where(places(block * cut.keys, cut.keys, 0) < stop, v[...], 0)
            softmax.absorb(rows, q[rows, :], k[...], values, scale, live)

        @pl.when(block == cut.blocks - 1)
        def _():
            mean, lse[pl.ds(c, 1), :] = softmax.finish(rows)
            out[rows, :] = mean.astype(out.dtype)

    jax.lax.fori_loop(0, cut.chunks, chunk, None)


def forward(q, k, v, seen: Seen, *, scale, out_dtype, blocks: Blocks | None = None, interpret=False):
    """q [B, J, X, E], k and v [B, J, S, E] -> out [B, J, X, E] in out_dtype, log-sum-exp float32 [B, J, X].

    A row without a live key gives 0 and MASKED. blocks: sizes, by default from the table. interpret: True or
    pltpu.InterpretParams runs the kernel on any machine.
    """
    batch, kv_heads, x, width = q.shape
    size, wide, wide_out = k.shape[2], q.dtype.itemsize, jnp.dtype(out_dtype).itemsize
    sizes = blocks or _blocks.choose(x, q.dtype)
    tile = sizes.rows * sizes.keys * 4
    row_bytes = forward_row_bytes(wide, wide_out)
    fixed = 4 * LANES * wide * sizes.keys + 6 * tile
    cut = walk(x, size, sizes, row_bytes, fixed)
    sight = _look(seen, size, cut)
    rows, keys, vector, table = _specs(cut, width)
    ids = [] if sight.row_ids is None else [sight.row_ids, seen.key_ids[:, None]]
    parts = (batch, kv_heads, cut.parts)
    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, cut, scale, bool(ids)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(*parts, cut.blocks),
            in_specs=[table, rows, keys, keys, *_row_specs(cut, bool(ids))],
            out_specs=[rows, vector],
            scratch_shapes=Softmax.scratch(cut.resident, width),
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*parts, cut.resident, width), out_dtype),
            jax.ShapeDtypeStruct((*parts, cut.chunks, cut.rows), jnp.float32),
        ],
        compiler_params=params(row_bytes * cut.resident + fixed),
        cost_estimate=_cost(4, q, k, cut),
        interpret=interpret,
        name="attention_forward",
    )(sight.fetch, sight.end, sight.code, _pad_rows(q, cut, 2), k, v, sight.limit, *ids)
    return _unpad(out, x), lse.reshape(batch, kv_heads, -1)[:, :, :x]


def forward_row_bytes(wide: int, wide_out: int) -> int:
    """VMEM of a resident row: q and out twice each, as they are fetched ahead, the float32 state, vectors over rows."""
    return 2 * LANES * (wide + wide_out) + 12 * LANES + 64


def _unpad(out, rows):
    """[B, J, parts, resident, E] -> [B, J, X, E]."""
    return out.reshape(*out.shape[:2], -1, out.shape[-1])[:, :, :rows]


def _specs(cut: Walk, width: int):
    """Block specs of q and out, of k and v, of a float32 vector over rows, and of the table `code`."""

    def key_block(b, j, u, s, fetch, end):
        return b, j, fetch[(b * cut.parts + u) * cut.blocks + s], 0

    by_part = lambda b, j, u, s, *_: (b, j, u, 0, 0)
    rows = pl.BlockSpec((None, None, None, cut.resident, width), by_part)
    vector = pl.BlockSpec((None, None, None, cut.chunks, cut.rows), by_part)
    table = pl.BlockSpec(
        (None, None, 1, cut.blocks * cut.chunks),
        lambda b, j, u, s, *_: (b, u, 0, 0),
        memory_space=pltpu.SMEM,
    )
    return rows, pl.BlockSpec((None, None, cut.keys, width), key_block), vector, table


def _row_specs(cut: Walk, has_ids: bool):
    """Block specs of limit and, with ids, of row_ids and key_ids: the same for every kv head."""
    ints = pl.BlockSpec((None, None, cut.chunks, cut.rows), lambda b, j, u, s, *_: (b, u, 0, 0))
    if not has_ids:
        return [ints]
    key_ids = lambda b, j, u, s, fetch, end: (b, 0, fetch[(b * cut.parts + u) * cut.blocks + s])
    return [ints, ints, pl.BlockSpec((None, 1, cut.keys), key_ids)]


# Rows are resident from the first key block to the last: only scenes, kv heads and parts may go in any order.
ORDER = ("parallel", "parallel", "parallel", "arbitrary")


def params(need: int):
    """need: bytes of VMEM by the kernel's own arithmetic; some more is asked for."""
    limit = min(_blocks.chip().vmem * 15 // 16, need * 5 // 4 + 8 * MIB)
    return pltpu.CompilerParams(dimension_semantics=ORDER, vmem_limit_bytes=limit)


def _cost(products: int, q, k, cut: Walk):
    """For the compiler's schedule: as if every row saw every key."""
    batch, kv_heads, x, width = q.shape
    pairs = batch * kv_heads * x * k.shape[2]
    moved = (2 * q.size + cut.parts * 2 * k.size) * q.dtype.itemsize
    return pl.CostEstimate(flops=products * pairs * width, transcendentals=pairs, bytes_accessed=moved)


def _backward_kernel(cut: Walk, scale, has_ids, fetch, end, code, q, k, v, do, limit, *refs):
    """As `_forward_kernel`; do [X, E]; lse, delta float32 [chunks, rows]; dq float32 [X, E], resident; dk, dv, dk_sum,
    dv_sum [keys, E]. Tiles are [keys, rows], so that vectors over rows broadcast without being turned."""
    row_ids, key_ids = refs[:2] if has_ids else (None, None)
    lse, delta, dq, dk, dv, dk_sum, dv_sum = refs[2 * has_ids :]
    block = pl.program_id(3)
    stop = end[pl.program_id(0) * cut.parts + pl.program_id(2)]
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

    def absorb(c, rows, keys, live):
        queries, cotangent = q[rows, :], do[rows, :]
        p = jnp.exp(product(keys, queries) * scale - lse[pl.ds(c, 1), :])  # [keys, rows]
        if live is not None:
            p = jnp.where(live, p, 0.0)
        dv_sum[...] += product(p.astype(cotangent.dtype), cotangent, (1, 0))
        ds = p * (product(v[...], cotangent) - delta[pl.ds(c, 1), :])
        if live is not None:
            ds = jnp.where(live, ds, 0.0)  # values behind the last live key may be NaN
        ds = ds.astype(queries.dtype)
        dk_sum[...] += product(ds, queries, (1, 0))
        dq[rows, :] += product(ds, keys, (0, 0))

    def chunk(c, _):
        rows = pl.ds(pl.multiple_of(c * cut.rows, SUBLANES), cut.rows)
        seen = code[0, block * cut.chunks + c]

        @pl.when(block == 0)
        def _():
            dq[rows, :] = jnp.zeros((cut.rows, dq.shape[1]), jnp.float32)

        @pl.when(seen == WHOLE)
        def _():
            absorb(c, rows, k[...], None)

        @pl.when(seen == PART)
        def _():
            place = places(block * cut.keys, cut.keys, 0)
            keys = jnp.where(place < stop, k[...], 0)
            absorb(c, rows, keys, _live(limit, row_ids, key_ids, c, place, turn=False))

    jax.lax.fori_loop(0, cut.chunks, chunk, None)
    dk[...] = (dk_sum[...] * scale).astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)


def backward(q, k, v, seen: Seen, lse, delta, do, *, scale, blocks: Blocks | None = None, interpret=False):
    """Shapes as in `forward`; do [B, J, X, E]; lse, delta float32 [B, J, X], delta = sum(do · out), lse over these keys
    or over more -> dq float32 [B, J, X, E], dk and dv [B, J, S, E] in k's and v's dtype, summed in float32."""
    batch, kv_heads, x, width = q.shape
    size, wide = k.shape[2], q.dtype.itemsize
    sizes = blocks or _blocks.choose(x, q.dtype, backward=True)
    tile = sizes.rows * sizes.keys * 4
    row_bytes = 4 * LANES * wide + 8 * LANES + 64
    fixed = (8 * wide + 8) * LANES * sizes.keys + 8 * tile
    cut = walk(x, size, sizes, row_bytes, fixed)
    sight = _look(seen, size, cut)
    rows, keys, vector, table = _specs(cut, width)
    ids = [] if sight.row_ids is None else [sight.row_ids, seen.key_ids[:, None]]
    parts = (batch, kv_heads, cut.parts)
    key_part = pl.BlockSpec((None, None, None, cut.keys, width), lambda b, j, u, s, *_: (b, j, u, s, 0))
    by_part = lambda dtype: dtype if cut.parts == 1 else jnp.float32  # parts of a sum stay float32
    dq, dk, dv = pl.pallas_call(
        functools.partial(_backward_kernel, cut, scale, bool(ids)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(*parts, cut.blocks),
            in_specs=[table, rows, keys, keys, rows, *_row_specs(cut, bool(ids)), vector, vector],
            out_specs=[rows, key_part, key_part],
            scratch_shapes=[pltpu.VMEM((cut.keys, width), jnp.float32)] * 2,
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*parts, cut.resident, width), jnp.float32),
            jax.ShapeDtypeStruct((*parts, size, width), by_part(k.dtype)),
            jax.ShapeDtypeStruct((*parts, size, width), by_part(v.dtype)),
        ],
        compiler_params=params(row_bytes * cut.resident + fixed),
        cost_estimate=_cost(10, q, k, cut),
        interpret=interpret,
        name="attention_backward",
    )(
        sight.fetch, sight.end, sight.code, _pad_rows(q, cut, 2), k, v, _pad_rows(do, cut, 2), sight.limit, *ids,
        _by_chunk(lse, cut), _by_chunk(delta, cut),
    )  # fmt: skip
    total = lambda x, dtype: x[:, :, 0] if cut.parts == 1 else x.sum(axis=2).astype(dtype)
    return _unpad(dq, x) * scale, total(dk, k.dtype), total(dv, v.dtype)
