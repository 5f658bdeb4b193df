"""Kernels of linear_log_prob for TPU: a tiled product of hidden and weight with the softmax's work as its epilogue.

N rows, D width, Vc ids (of a chunk, or all); R rows of a block, T columns of a tile, P of a part. The grid is (row
blocks, tiles), tiles innermost: a block of hidden [R, D] stays in VMEM while tiles [D, T] of the weight stream past it.
Running sums are kept one a lane ([R, 128]; column c belongs to lane c % 128), so that nothing crosses lanes until the
last tile. Tiles of which a row block sees nothing are neither fetched nor computed, tiles that all its rows see whole
need no mask. What lies behind the ends of hidden and weight may be NaN: such rows are not written, such columns never
count.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ar1_kernels import chunked
from ar1_kernels.chunked import MASKED, Stats, reach

LANES, SUBLANES = 128, 16  # of a register of two-byte numbers
DEAD, WHOLE, MIXED = 0, 1, 2  # what a row block sees of a tile
BLOCK_BYTES = 2**23  # of a block of hidden and of a tile of weight, each; both are held twice
VMEM_BYTES = 60 * 2**20  # the smallest VMEM of the chips that these kernels run on is 64 MiB


@dataclasses.dataclass(frozen=True)
class Blocks:
    """rows: most rows of a block. ids: columns of a tile. strip, part: rows of a block and columns of a tile that are
    multiplied and reduced at once, in a loop that keeps the program small; ids is a multiple of part."""

    rows: int
    ids: int
    part: int
    strip: int = 256

    def __post_init__(self):
        for name, unit in (("rows", SUBLANES), ("strip", SUBLANES), ("part", LANES), ("ids", self.part or 1)):
            size = getattr(self, name)
            if size <= 0 or size % unit:
                raise ValueError(f"Blocks: {name}={size} is not a positive multiple of {unit}")


def blocks_for(width: int, dtype) -> Blocks:
    """Blocks of BLOCK_BYTES each: 1,024 rows and ids in bfloat16 at a width of 4,096, which makes 1,024 FLOPs of each
    byte of weight read, beyond what v5e (240) and v6e (560) need to stay busy."""
    fit = BLOCK_BYTES // (width * jnp.dtype(dtype).itemsize)
    size = min(max(LANES, 1 << (fit.bit_length() - 1)), 1024) if fit else LANES
    return Blocks(rows=size, ids=size, part=max(LANES, size // 2))


def refusal(dtype, width: int, kind: str) -> str | None:
    """Why these kernels cannot run for this dtype and width on this kind of device ("" unknown), or None."""
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"its kernels take bfloat16 and float32, not {jnp.dtype(dtype).name}"
    if kind.startswith(("TPU v2", "TPU v3", "TPU v4")):
        return f"its kernels hold up to {VMEM_BYTES >> 20} MiB in VMEM, of which a {kind} has 16"
    if width * LANES * jnp.dtype(dtype).itemsize > BLOCK_BYTES:
        return f"a width of {width} is more than its kernels keep in VMEM"
    return None


def stats(
    hidden, weight, labels, inverse_temperature, allowed, first, start, stop, *, blocks=None, interpret=False
):
    """`chunked.Engine.stats`: hidden [N, D], weight [D, Vc], both bfloat16 or both float32."""
    labels, out = _call(
        _stats_kernel,
        hidden,
        weight,
        (labels, allowed, first, start, stop),
        [inverse_temperature],
        out=lambda block, tile: pl.BlockSpec((block, 3), lambda i, j, *_: (i, 0)),
        shape=jax.ShapeDtypeStruct((hidden.shape[0], 3), jnp.float32),
        sums=4,
        flip=_flips(*weight.shape),
        blocks=blocks,
        interpret=interpret,
    )
    return Stats(jnp.where(labels >= 0, out[:, 0], MASKED), out[:, 1], out[:, 2])


def cotangent(
    hidden, weight, labels, inverse_temperature, allowed, lse, mean, g, e, first, start, stop, *, blocks=None,
    interpret=False,
):  # fmt: skip
    """`chunked.Engine.cotangent`: hidden [N, D], weight [D, Vc], both bfloat16 or both float32."""
    return _call(
        _cotangent_kernel,
        hidden,
        weight,
        (labels, allowed, first, start, stop),
        [inverse_temperature, lse, mean, g * inverse_temperature, e * inverse_temperature],
        out=lambda block, tile: pl.BlockSpec((block, tile), lambda i, j, *_: (i, j)),
        shape=jax.ShapeDtypeStruct((hidden.shape[0], weight.shape[1]), hidden.dtype),
        flip=True,
        blocks=blocks,
        interpret=interpret,
    )[1]


def _flips(width: int, ids: int) -> bool:
    """Does a whole weight [D, V] lie in memory as [V, D]? XLA puts the dimension innermost that fills the lanes, and a
    kernel that reads it the other way has all of it copied first. (Chunks are copied out in either order.)"""
    return ids % LANES != 0 and width % LANES == 0


def _call(kernel, hidden, weight, ids, floats, *, out, shape, sums=0, flip, blocks, interpret):
    """Labels as columns of `weight` (-1: not a live id) and the kernel's output.

    out: (R, T) -> its BlockSpec. flip: the kernel reads the weight as [Vc, D], see `_flips`.
    """
    (rows, width), columns, dtype = hidden.shape, weight.shape[1], hidden.dtype
    blocks = blocks or blocks_for(width, dtype)
    row_blocks = -(-rows // blocks.rows)
    strips = -(-rows // (row_blocks * blocks.strip))
    strip = -(-rows // (row_blocks * strips * SUBLANES)) * SUBLANES  # blocks and strips of nearly one size
    block = strips * strip
    tile = min(blocks.ids, -(-columns // LANES) * LANES)
    tiles = -(-columns // tile)

    labels, allowed, start, stop = chunked.columns(*ids)
    some, every = reach(allowed, start, stop, tiles, tile, block)
    sees = jnp.where(every, WHOLE, jnp.where(some, MIXED, DEAD)).astype(jnp.int32)  # [row blocks, tiles]
    window = jnp.stack([jnp.asarray(x, jnp.int32) for x in (start, stop)])

    integers = jnp.stack([labels, allowed[:, 0], allowed[:, 1]], axis=1)
    floats = jnp.stack(floats, axis=1)
    row = lambda size: pl.BlockSpec((block, size), lambda i, j, *_: (i, 0))
    if flip:
        weight_spec = pl.BlockSpec((tile, width), lambda i, j, sees, fetch, window: (fetch[i, j], 0))
    else:
        weight_spec = pl.BlockSpec((width, tile), lambda i, j, sees, fetch, window: (0, fetch[i, j]))
    result = pl.pallas_call(
        functools.partial(kernel, strip=strip, part=math.gcd(tile, blocks.part), flip=flip),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(row_blocks, tiles),
            in_specs=[row(width), weight_spec, row(integers.shape[1]), row(floats.shape[1])],
            out_specs=out(block, tile),
            scratch_shapes=[pltpu.VMEM((block, LANES), jnp.float32)] * sums,
        ),
        out_shape=shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * rows * width * columns,
            bytes_accessed=(rows + row_blocks * columns) * width * dtype.itemsize
            + shape.size * shape.dtype.itemsize,
            transcendentals=rows * columns,
        ),
        interpret=interpret,
    )(sees, _fetched(sees), window, hidden, weight.T if flip else weight, integers, floats)
    return labels, result


def _fetched(sees):
    """[row blocks, tiles] -> the tile that lies in VMEM at each step: a dead one keeps what is there."""
    own = jnp.where(sees != DEAD, jnp.arange(sees.shape[1], dtype=jnp.int32), -1)
    latest = lax.cummax(own, axis=1)
    return jnp.where(latest < 0, jnp.argmax(own >= 0, axis=1, keepdims=True).astype(jnp.int32), latest)


def _each_part(body, j, hidden, weight, integers, window, strip, part, flip, masked):
    """Calls body(rows, columns, ids, x, counts) for each strip and part of tile j: slices of the block and of the tile,
    ids int32 [1, P], x = hidden · weight f32 [S, P] and, if masked, which of them count, bool [S, P]."""
    parts = weight.shape[0 if flip else 1] // part
    first = j * parts * part
    precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None

    def step(n, _):
        strip_at, part_at = lax.div(n, parts) * strip, lax.rem(n, parts) * part
        rows = pl.ds(pl.multiple_of(strip_at, SUBLANES), strip)
        columns = pl.ds(pl.multiple_of(part_at, LANES), part)
        x = lax.dot_general(
            hidden[rows, :],
            weight[columns, :] if flip else weight[:, columns],
            (((1,), (1 if flip else 0,)), ((), ())),
            preferred_element_type=jnp.float32,
            precision=precision,
        )
        ids = first + part_at + lax.broadcasted_iota(jnp.int32, (1, part), 1)
        counts = None
        if masked:
            a, b = (jnp.broadcast_to(integers[rows, c : c + 1], x.shape) for c in (1, 2))
            above, below = ids >= a, ids < b
            counts = (above & below) | ((above | below) & (a > b))
            counts = counts & (ids >= window[0]) & (ids < window[1])
        body(rows, columns, ids, x, counts)

    lax.fori_loop(0, hidden.shape[0] // strip * parts, step, None)


def _stats_kernel(
    sees,  # int32 [row blocks, tiles]
    fetch,  # int32 [row blocks, tiles]
    window,  # int32 [2]: columns that count
    hidden,  # [R, D]
    weight,  # [D, T], or [T, D] flipped
    integers,  # int32 [R, 3]: label's column or -1, both ends of what is allowed
    floats,  # f32 [R, 1]: 1 / temperature
    out,  # f32 [R, 3]: label's logit, log-sum-exp, mean logit
    top,  # f32 [R, 128]: largest logit of a lane so far
    total,  # f32 [R, 128]: sum of exp(z - top)
    moment,  # f32 [R, 128]: sum of exp(z - top) · z
    label,  # f32 [R, 128]: the label's logit in its lane, else 0
    *,
    strip,
    part,
    flip,
):
    i, j = pl.program_id(0), pl.program_id(1)
    add = lambda x: functools.reduce(jnp.add, x)

    @pl.when(j == 0)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...], moment[...], label[...] = (jnp.zeros_like(x) for x in (total, moment, label))

    def reduce(rows, columns, ids, x, counts):
        z = x * floats[rows, :]
        if counts is not None:
            z = jnp.where(counts, z, MASKED)  # a lane without a live id so far is wiped out by its first
        groups = [slice(c, c + LANES) for c in range(0, part, LANES)]
        old = top[rows, :]
        new = functools.reduce(jnp.maximum, [z[:, c] for c in groups], old)
        shrink = jnp.exp(old - new)
        p = [jnp.exp(z[:, c] - new) for c in groups]
        top[rows, :] = new
        total[rows, :] = shrink * total[rows, :] + add(p)
        moment[rows, :] = shrink * moment[rows, :] + add(p * z[:, c] for p, c in zip(p, groups))
        mine = integers[rows, 0:1]
        label[rows, :] += add(jnp.where(ids[:, c] == mine, z[:, c], 0.0) for c in groups)

    run = functools.partial(_each_part, reduce, j, hidden, weight, integers, window, strip, part, flip)
    pl.when(sees[i, j] == WHOLE)(lambda: run(masked=False))
    pl.when(sees[i, j] == MIXED)(lambda: run(masked=True))

    @pl.when(j == pl.num_programs(1) - 1)
    def _():
        across = lambda x: jnp.sum(x, axis=1, keepdims=True)
        high = jnp.max(top[...], axis=1, keepdims=True)
        share = jnp.exp(top[...] - high)
        norm = jnp.maximum(across(share * total[...]), 1.0)  # it is less only where every tile was dead
        out[:, 0:1] = across(label[...])
        out[:, 1:2] = high + jnp.log(norm)
        out[:, 2:3] = across(share * moment[...]) / norm


def _cotangent_kernel(
    sees,  # int32 [row blocks, tiles]
    fetch,  # int32 [row blocks, tiles]
    window,  # int32 [2]: columns that count
    hidden,  # [R, D]
    weight,  # [D, T], or [T, D] flipped
    integers,  # int32 [R, 3]: label's column or -1, both ends of what is allowed
    floats,  # f32 [R, 5]: 1 / temperature, lse, mean, and g and e by temperature
    out,  # [R, T]: d loss / d logits
    *,
    strip,
    part,
    flip,
):
    i, j = pl.program_id(0), pl.program_id(1)

    def write(rows, columns, ids, x, counts):
        scale, lse, mean, g, e = (floats[rows, c : c + 1] for c in range(5))
        z = x * scale
        dz = jnp.exp(z - lse) * (e * (mean - z) - g) + jnp.where(ids == integers[rows, 0:1], g, 0.0)
        if counts is not None:
            dz = jnp.where(counts, dz, 0.0)
        out[rows, columns] = dz.astype(out.dtype)

    run = functools.partial(_each_part, write, j, hidden, weight, integers, window, strip, part, flip)
    pl.when(sees[i, j] == WHOLE)(lambda: run(masked=False))
    pl.when(sees[i, j] == MIXED)(lambda: run(masked=True))

    @pl.when(sees[i, j] == DEAD)
    def _():
        out[...] = jnp.zeros_like(out)
