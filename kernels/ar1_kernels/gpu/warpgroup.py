"""What one warpgroup does with tiles in shared memory: attention's softmax, and the stream of keys.

Operands of the products (products.py) lie in shared memory, where TMA, the copy unit, puts them while it counts the
bytes on a barrier. A producer warpgroup asks for blocks of keys and values ahead of the consumers, in a ring of slots.
TMA fills with zeros what lies behind an array's end.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels.attention import MASKED
from ar1_kernels.gpu.products import UNITS, down

LOG2E = math.log2(math.e)


def interpreter(interpret):
    """`interpret` of plgpu.kernel: None for the chip, the simulator's parameters for True, or those given."""
    if not interpret or interpret is not True:
        return interpret or None
    if hasattr(plgpu, "InterpretGPUParams"):
        return plgpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret import params  # jax 0.10 has it here only

    return params.InterpretGPUParams()


def launch(name, kernel, *, grid, consumers, out_type, scratch_types, interpret):
    """plgpu.kernel with `consumers` warpgroups and a producer behind them, named `warpgroup`; grid: {name: size}."""
    return plgpu.kernel(
        kernel, out_type=out_type, scratch_types=scratch_types,
        grid=tuple(grid.values()), grid_names=tuple(grid), num_threads=consumers + 1, thread_name="warpgroup",
        kernel_name=name, interpret=interpreter(interpret),
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
            reduction_scratch_bytes=1024),  # no row is spread over warps
    )  # fmt: skip


def roles(size, consume, produce):
    """Runs consume(warpgroup) on the consumers, produce() on the producer, with registers moved to the consumers; size:
    Blocks, whose `consumers` and `unit` count."""
    warpgroup, registers = lax.axis_index("warpgroup"), UNITS[size.unit].registers[size.consumers]

    @pl.when(warpgroup < size.consumers)
    def _():
        if registers:
            plgpu.set_max_registers(registers[0], action="increase")
        consume(warpgroup)

    @pl.when(warpgroup == size.consumers)
    def _():
        if registers:
            plgpu.set_max_registers(registers[1], action="decrease")
        produce()


class Stream(NamedTuple):
    """A ring of slots through which pairs of blocks (keys and values; queries and cotangents) pass to the consumers.

    first, second: refs [stages, n, E] in shared memory. full_*: barriers [stages] that TMA arrives on; free_*: barriers
    [stages] that every consumer arrives on. Block u of a launch lies in slot u % stages. vectors: whether some come
    with a first block; consumers read those themselves, by another way than TMA writes and the matrix unit reads.
    """

    first: Any
    second: Any
    full_first: Any
    full_second: Any
    free_first: Any
    free_second: Any
    vectors: bool = False

    @classmethod
    def types(cls, stages, n, width, dtype, consumers, extra=0):
        """Scratch types; extra: vectors that come with every first block, on its barrier."""
        ring = plgpu.SMEM((stages, n, width), dtype)
        full = lambda arrivals: plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages)
        return (ring, ring, full(1 + extra), full(1), full(consumers), full(consumers))

    def slot(self, u):
        return lax.rem(u, jnp.int32(self.first.shape[0]))

    def release_first(self, slot):
        """Consumer: has done with a first block and its vectors."""
        if self.vectors:
            plgpu.commit_smem()  # the two ways in order: the vectors are read before TMA writes the next ones
        plgpu.barrier_arrive(self.free_first.at[slot])

    def fetch(self, u, first, second, extra=()):
        """Producer: copies block u, refs [n, E] in device memory; extra: ((ref, ring ref), ...) with `first`."""
        slot = self.slot(u)

        @pl.when(u >= self.first.shape[0])
        def _():
            plgpu.barrier_wait(self.free_first.at[slot])

        plgpu.copy_gmem_to_smem(first, self.first.at[slot], self.full_first.at[slot])
        for source, ring in extra:
            plgpu.copy_gmem_to_smem(source, ring.at[slot], self.full_first.at[slot])

        @pl.when(u >= self.first.shape[0])
        def _():
            plgpu.barrier_wait(self.free_second.at[slot])

        plgpu.copy_gmem_to_smem(second, self.second.at[slot], self.full_second.at[slot])

    def drain(self, u):
        """Producer, behind its last block, u - 1: waits until the consumers have done with all of them."""

        def wait(n, _):
            plgpu.barrier_wait(self.free_first.at[self.slot(n)])
            plgpu.barrier_wait(self.free_second.at[self.slot(n)])

        lax.fori_loop(jnp.maximum(u - self.first.shape[0], 0), u, wait, None)


class Softmax(NamedTuple):
    """Of a tile of X rows over the keys so far: acc = sum of exp(s - peak) · v [X, E], peak and total float32 [X].

    acc: the unit's sum 0, as the unit hands it round.
    """

    acc: Any
    peak: jax.Array
    total: jax.Array

    @classmethod
    def empty(cls, unit, width):
        vector = lambda value: jnp.full((unit.rows,), value, jnp.float32)
        return cls(unit.start(0, width), vector(MASKED), vector(0.0))

    def take(self, unit, q, stream, u, *, scale, live):
        """Block u of keys and values joins. q: ref [X, E]; live: score tile's shape -> bool mask, None: all seen.

        Powers of two with the scale inside, so that an exponent is one multiply-add of a raw score.
        """
        slot, to_log2 = stream.slot(u), scale * LOG2E
        plgpu.barrier_wait(stream.full_first.at[slot])
        s = unit.scores(q, stream.first.at[slot])
        if live is not None:
            s = jnp.where(live(s.shape), s, MASKED)
        stream.release_first(slot)
        peak = jnp.maximum(self.peak, s.max(axis=1))
        # A row that has seen no key counts from 0: exp2(MASKED) is 0, where MASKED - MASKED would be anything.
        base = jnp.where(peak <= MASKED, 0.0, peak * to_log2)
        p = jnp.exp2(s * to_log2 - down(base, s.shape))
        shrink = jnp.exp2(self.peak * to_log2 - base)
        total = self.total * shrink + p.sum(axis=1)
        acc = unit.scale(0, self.acc, shrink)
        plgpu.barrier_wait(stream.full_second.at[slot])
        acc = unit.add(0, acc, p.astype(stream.second.dtype), stream.second.at[slot])
        plgpu.barrier_arrive(stream.free_second.at[slot])
        return Softmax(acc, peak, total)

    def finish(self, unit, scale, out, lse):
        """Writes normalised values to out [X, E] and log-sum-exp to lse [X], refs in shared memory; 0 and MASKED for a
        row that has seen no key."""
        empty = self.total == 0.0
        weight = jnp.where(empty, 0.0, 1.0 / self.total)
        unit.write(0, self.acc, out, lambda x: x * down(weight, x.shape))
        lse[...] = jnp.where(empty, MASKED, self.peak * scale + jnp.log(self.total))


def round_up(size, unit):
    return -(-size // unit) * unit


def pad(x, axis, size, mode="constant"):
    """x with `axis` grown to `size`: by zeros, or by its last element with mode="edge"."""
    if x.shape[axis] == size:
        return x
    widths = [(0, size - n if i == axis % x.ndim else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths, mode=mode)
