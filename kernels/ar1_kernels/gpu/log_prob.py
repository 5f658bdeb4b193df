"""Kernels of linear_log_prob for GPUs: a tiled product of hidden and weight with the softmax's work as its epilogue.

N rows, D width, Vc ids of a chunk; R rows and T columns of a tile, C columns of a part, K depth of a step.
As many blocks of threads as the chip has multiprocessors take tiles in turn, rows first, so that all of hidden and a
few columns of the weight are in the cache at a time. A producer warpgroup runs ahead through a ring of slots, into the
next tile too; consumers share the rows of a tile and divide its columns. Log-sum-exp and mean leave a tile as one
number a row and consumer and are joined outside (chunked.merge), which is a thousandth of the weight's bytes. Tiles of
which no row sees anything are not computed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels import chunked
from ar1_kernels.chunked import MASKED, Stats, merge, reach
from ar1_kernels.gpu import products
from ar1_kernels.gpu import warpgroup as wg
from ar1_kernels.gpu.products import COLUMNS, MULTIPROCESSORS, UNITS, down


@dataclasses.dataclass(frozen=True)
class Blocks:
    """rows, ids: of a tile; depth: of a step of its product; stages: steps on their way at once; launched: most blocks
    of threads, which share the tiles out among them, None: one a multiprocessor; unit: a key of products.UNITS.

    A consumer's share, rows x ids / consumers in float32, stays in the registers of its 128 threads or in as many
    columns of tensor memory.
    """

    rows: int = 128
    ids: int = 256
    depth: int = 64
    stages: int = 4
    consumers: int = 2
    launched: int | None = None
    unit: str = "wgmma"

    def __post_init__(self):
        products.check(self.unit, self.consumers)
        units = {"rows": 64, "ids": 64 * self.consumers, "depth": 64, "stages": 1}
        units |= {} if self.launched is None else {"launched": 1}
        for name, unit in units.items():
            size = getattr(self, name)
            if size <= 0 or size % unit:
                raise ValueError(f"Blocks: {name}={size} is not a positive multiple of {unit}")
        if self.unit == "tcgen05" and (self.rows != 128 or self.ids > COLUMNS or self.share > 256):
            raise ValueError(
                f"Blocks: rows={self.rows}, ids={self.ids}, consumers={self.consumers}: tcgen05 takes 128 rows, "
                f"at most {COLUMNS} ids in tensor memory and at most 256 a consumer"
            )

    @property
    def share(self) -> int:
        """Columns of a consumer."""
        return self.ids // self.consumers

    @property
    def part(self) -> int:
        """Columns of a part: what a consumer brings into its registers at once."""
        return self.share // (2 if UNITS[self.unit].tensor_memory else 1)

    @property
    def parts(self) -> int:
        """Of a tile."""
        return self.ids // self.part


TABLE = {  # three stages beside a tile of results in shared memory
    unit: {"stats": Blocks(unit=unit), "cotangent": Blocks(unit=unit, stages=3)} for unit in UNITS
}


def refusal(dtype, width: int, kind: str) -> str | None:
    """Why these kernels cannot run for operands of `dtype` and width on a device of `kind` ("": unknown), or None."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        name = jnp.dtype(dtype).name
        return f"they take bfloat16, not {name}: the matrix unit rounds float32 to 10 bits of fraction"
    return products.refusal(kind)


def stats(
    hidden, weight, labels, inverse_temperature, allowed, first, start, stop, *, blocks=None, interpret=False
):
    """`chunked.Engine.stats`: hidden [N, D], weight [D, Vc] in bfloat16."""
    blocks = _here("stats", blocks)
    rows, columns = _whole(hidden, weight, blocks)
    parts = columns // blocks.part
    labels, out = _call(
        STATS_EPILOGUE,
        hidden,
        weight,
        (labels, allowed, first, start, stop),
        [inverse_temperature],
        out=jax.ShapeDtypeStruct((parts, 3, rows), jnp.float32),
        result=plgpu.SMEM((blocks.parts, 3, blocks.rows), jnp.float32),
        blocks=blocks,
        interpret=interpret,
    )
    label, lse, mean = out[:, :, : len(labels)].swapaxes(0, 1)
    return merge(Stats(jnp.where(labels >= 0, label.sum(0), MASKED)[None], lse, mean))


def cotangent(
    hidden, weight, labels, inverse_temperature, allowed, lse, mean, g, e, first, start, stop, *, blocks=None,
    interpret=False,
):  # fmt: skip
    """`chunked.Engine.cotangent`: hidden [N, D], weight [D, Vc] in bfloat16."""
    blocks = _here("cotangent", blocks)
    return _call(
        COTANGENT_EPILOGUE,
        hidden,
        weight,
        (labels, allowed, first, start, stop),
        [inverse_temperature, lse, mean, g * inverse_temperature, e * inverse_temperature],
        out=jax.ShapeDtypeStruct(_whole(hidden, weight, blocks), hidden.dtype),
        result=plgpu.SMEM((blocks.parts, blocks.rows, blocks.part), hidden.dtype),
        blocks=blocks,
        interpret=interpret,
    )[1][: hidden.shape[0], : weight.shape[1]]


def _here(kernel, blocks):
    """`blocks`, else the table's for the device that is traced for."""
    return products.here(blocks, lambda unit: TABLE[unit][kernel])


def _whole(hidden, weight, blocks):
    """N and Vc rounded up to whole tiles."""
    return wg.round_up(hidden.shape[0], blocks.rows), wg.round_up(weight.shape[1], blocks.ids)


def _call(epilogue, hidden, weight, ids, floats, *, out, result, blocks, interpret):
    """Labels as columns of `weight` (-1: not a live id) and the kernel's output; result: a tile's parts of it."""
    reason = refusal(hidden.dtype, hidden.shape[1], "")
    if reason or weight.dtype != hidden.dtype:
        raise ValueError(f"pallas_gpu: {reason or f'hidden is {hidden.dtype} and weight {weight.dtype}'}")
    labels, allowed, start, stop = chunked.columns(*ids)

    rows, columns = _whole(hidden, weight, blocks)
    width = wg.round_up(hidden.shape[1], blocks.depth)
    tiles, unit = (rows // blocks.rows, columns // blocks.ids), UNITS[blocks.unit]
    some, _ = reach(allowed, start, stop, tiles[1], blocks.ids, blocks.rows)
    window = jnp.stack([jnp.asarray(x, jnp.int32) for x in (start, stop)])
    integers = wg.pad(jnp.stack([labels, allowed[:, 0], allowed[:, 1]]), 1, rows, "edge")
    floats = wg.pad(jnp.stack(floats), 1, rows, "edge")
    per_row = lambda x: plgpu.SMEM((blocks.consumers, len(x), blocks.rows), x.dtype)
    launched = min(blocks.launched or MULTIPROCESSORS[blocks.unit], math.prod(tiles))
    output = wg.launch(
        epilogue.name,
        functools.partial(
            _kernel,
            epilogue=epilogue,
            tiles=tiles,
            steps=width // blocks.depth,
            stride=launched,
            blocks=blocks,
        ),
        grid={"block": launched},
        consumers=blocks.consumers,
        out_type=out,
        scratch_types=dict(
            ring=(
                plgpu.SMEM((blocks.stages, blocks.rows, blocks.depth), hidden.dtype),
                plgpu.SMEM((blocks.stages, blocks.depth, blocks.ids), weight.dtype),
                plgpu.Barrier(num_arrivals=2, num_barriers=blocks.stages),
                plgpu.Barrier(
                    num_arrivals=blocks.consumers,
                    num_barriers=blocks.stages,
                    orders_tensor_core=unit.tensor_memory,
                ),
            ),
            sums=unit.scratch_of_sums(blocks.consumers, (blocks.rows, blocks.share)),
            integers=per_row(integers),
            floats=per_row(floats),
            loaded=plgpu.Barrier(num_arrivals=2, num_barriers=blocks.consumers),
            result=result,
        ),
        interpret=interpret,
    )(
        wg.pad(wg.pad(hidden, 0, rows), 1, width),
        wg.pad(wg.pad(weight, 0, width), 1, columns),
        integers,
        floats,
        some.astype(jnp.int32),
        window,
    )
    return labels, output


class Ring(NamedTuple):
    """The slots through which steps of products pass from TMA to the consumers; step u lies in slot u % stages.

    a [stages, R, K], b [stages, K, T] in shared memory; full: barriers [stages] that TMA arrives on, free: barriers
    [stages] that every consumer arrives on.
    """

    a: Any
    b: Any
    full: Any
    free: Any

    def slot(self, u):
        return lax.rem(u, jnp.int32(self.a.shape[0]))

    def fetch(self, u, hidden, weight):
        """Producer: copies step u, refs [R, K] and [K, T] in device memory."""
        at = self.slot(u)
        pl.when(u >= self.a.shape[0])(lambda: plgpu.barrier_wait(self.free.at[at]))
        plgpu.copy_gmem_to_smem(hidden, self.a.at[at], self.full.at[at])
        plgpu.copy_gmem_to_smem(weight, self.b.at[at], self.full.at[at])

    def drain(self, u):
        """Producer: waits until the consumers are done with every step before u."""
        for step in range(self.a.shape[0]):
            last = u - 1 - step
            pl.when(last >= 0)(lambda last=last: plgpu.barrier_wait(self.free.at[self.slot(last)]))

    def product(self, u, steps, columns, sums, me):
        """Consumer `me`: the sum of a · b[:, columns] over steps u to u + steps: its parts, float32 [R, C] each.

        sums: the kernel's, in tensor memory; () where they are registers.
        """
        return (self._in_tensor_memory if sums else self._in_registers)(u, steps, columns, sums, me)

    def _in_tensor_memory(self, u, steps, columns, sums, me):
        acc, done = sums[0].at[:, columns], sums[1].at[me]

        def step(k, _):
            at = self.slot(u + k)
            plgpu.barrier_wait(self.full.at[at])
            operands = self.a.at[at], self.b.at[at, :, columns]
            plgpu.tcgen05_mma(acc, *operands, self.free.at[at], accumulate=k > 0)  # the unit frees the slot

        lax.fori_loop(0, steps, step, None)
        plgpu.tcgen05_commit_arrive(done)
        plgpu.barrier_wait(done)
        part = columns.size // 2
        return (
            products.load(acc.at[:, pl.ds(n * part, part)]) for n in range(2)
        )  # each when it is asked for

    def _in_registers(self, u, steps, columns, sums, me):
        def run(acc):
            def step(k, _):
                at = self.slot(u + k)
                plgpu.barrier_wait(self.full.at[at])
                plgpu.wgmma(acc, self.a.at[at], self.b.at[at, :, columns])
                plgpu.wgmma_wait(1)  # the step before is done with its slot
                pl.when(k > 0)(lambda: plgpu.barrier_arrive(self.free.at[self.slot(u + k - 1)]))

            lax.fori_loop(0, steps, step, None)
            return acc[...]

        x = pl.run_scoped(run, plgpu.ACC((self.a.shape[1], columns.size), jnp.float32))
        plgpu.barrier_arrive(self.free.at[self.slot(u + steps - 1)])
        return (x,)


def _each_tile(sees_ref, tiles, steps, stride, seen, unseen):
    """Calls seen(i, j, u) or unseen(i, j) for each tile of this block of threads; u: steps of products before it.
    Returns the steps of all."""
    mine, rows = lax.axis_index("block"), jnp.int32(tiles[0])

    def tile(n, u):
        t = mine + n * stride
        i, j = lax.rem(t, rows), lax.div(t, rows)
        some = sees_ref[i, j] != 0
        pl.when(some)(lambda: seen(i, j, u))
        pl.when(jnp.logical_not(some))(lambda: unseen(i, j))
        return u + jnp.where(some, steps, 0)

    count = lax.div(jnp.int32(math.prod(tiles) - 1) - mine, jnp.int32(stride)) + 1
    return lax.fori_loop(0, count, tile, jnp.int32(0))


def _kernel(
    hidden_ref, weight_ref, integers_ref, floats_ref, sees_ref, window_ref, out_ref, *, ring, sums, integers, floats,
    loaded, result, epilogue, tiles, steps, stride, blocks,
):  # fmt: skip
    """Device memory: hidden_ref [N, D], weight_ref [D, Vc], integers_ref [3, N], floats_ref [1 or 5, N], sees_ref [row
    tiles, id tiles], window_ref [2], out_ref. Shared: integers [consumers, 3, R] and floats
    [consumers, 1 or 5, R], result [parts, ...]."""
    ring = Ring(*ring)
    each_tile = functools.partial(_each_tile, sees_ref, tiles, steps, stride)
    rows_of = lambda i: pl.ds(i * blocks.rows, blocks.rows)

    def produce():
        def fetch(i, j, u):
            def step(k, _):
                depth, ids = pl.ds(k * blocks.depth, blocks.depth), pl.ds(j * blocks.ids, blocks.ids)
                ring.fetch(u + k, hidden_ref.at[rows_of(i), depth], weight_ref.at[depth, ids])

            lax.fori_loop(0, steps, step, None)

        ring.drain(each_tile(fetch, lambda i, j: None))

    def consume(me):
        mine = [me * (blocks.parts // blocks.consumers) + n for n in range(blocks.parts // blocks.consumers)]

        def send(i, j, part, write):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            write(result.at[part])
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(result.at[part], out_ref.at[epilogue.place(i, j, part, blocks)])

        def seen(i, j, u):
            plgpu.copy_gmem_to_smem(integers_ref.at[:, rows_of(i)], integers.at[me], loaded.at[me])
            plgpu.copy_gmem_to_smem(floats_ref.at[:, rows_of(i)], floats.at[me], loaded.at[me])
            parts = ring.product(u, steps, pl.ds(me * blocks.share, blocks.share), sums, me)
            plgpu.barrier_wait(loaded.at[me])
            for part, x in zip(mine, parts):
                send(i, j, part, functools.partial(write, x, j * blocks.ids + part * blocks.part))

        def write(x, first_id, to):
            ids = lax.broadcasted_iota(jnp.int32, x.shape, 1) + first_id
            label, a, b = (down(integers[me, n], x.shape) for n in range(3))
            values = [down(floats[me, n], x.shape) for n in range(floats.shape[1])]
            epilogue.write(to, x, _counts(ids, a, b, window_ref), ids == label, *values)

        def unseen(i, j):
            for part in mine:
                send(i, j, part, epilogue.blank)

        each_tile(seen, unseen)
        plgpu.wait_smem_to_gmem(0)

    wg.roles(blocks, consume, produce)


def _counts(ids, a, b, window_ref):
    """Which ids of a tile count, bool [R, C]: `chunked.live` with the interval [a, b) of each row along its columns."""
    above, below = ids >= a, ids < b
    return ((above & below) | ((above | below) & (a > b))) & (ids >= window_ref[0]) & (ids < window_ref[1])


class Epilogue(NamedTuple):
    """What becomes of a part x = hidden · weight f32 [R, C] of a tile.

    write(to, x, counts bool [R, C], is_label bool [R, C], *floats f32 [R, C]): its result into `to`, in shared memory.
    blank(to): the result where no row counts any id. place(i, j, part, blocks): where it goes in device memory.
    """

    name: str
    write: Callable
    blank: Callable
    place: Callable


def _write_stats(to, x, counts, is_label, scale):
    """to f32 [3, R]: the label's logit or 0, log-sum-exp, mean; of a row that counts no id here: finite, lse MASKED."""
    z = jnp.where(counts, x * scale, MASKED)
    top = z.max(axis=1)
    p = jnp.exp(z - down(top, z.shape))
    total = p.sum(axis=1)
    to.at[0][...] = jnp.where(is_label, z, 0.0).sum(axis=1)
    to.at[1][...] = top + jnp.log(total)
    to.at[2][...] = (p * z).sum(axis=1) / total


def _blank_stats(to):
    for n, value in enumerate((0.0, MASKED, 0.0)):
        to.at[n][...] = jnp.full(to.shape[1:], value, jnp.float32)


STATS_EPILOGUE = Epilogue(
    "log_prob_stats",
    _write_stats,
    _blank_stats,
    lambda i, j, part, blocks: (j * blocks.parts + part, slice(None), pl.ds(i * blocks.rows, blocks.rows)),
)


def _write_cotangent(to, x, counts, is_label, scale, lse, mean, g, e):
    """to [R, C]: d loss / d logits; g and e are by temperature."""
    z = x * scale
    dz = jnp.exp(z - lse) * (e * (mean - z) - g) + jnp.where(is_label, g, 0.0)
    to[...] = jnp.where(counts, dz, 0.0).astype(to.dtype)


def _blank_cotangent(to):
    to[...] = jnp.zeros(to.shape, to.dtype)


COTANGENT_EPILOGUE = Epilogue(
    "log_prob_cotangent",
    _write_cotangent,
    _blank_cotangent,
    lambda i, j, part, blocks: (
        pl.ds(i * blocks.rows, blocks.rows),
        pl.ds(j * blocks.ids + part * blocks.part, blocks.part),
    ),
)
