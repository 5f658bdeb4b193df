"""Matrix products of one warpgroup: the units of Hopper (wgmma) and of Blackwell (tcgen05).

A unit works on `rows` rows of scores at a time. b always lies in shared memory, where TMA puts it. What differs is
where the left operand and the sums live: in the warpgroup's registers (wgmma), or in tensor memory, 512 columns of 128
lanes beside each multiprocessor (tcgen05), from which a warpgroup loads a row a thread. A sum is handed round as a
value for both: what a loop must carry, which is nothing where the sum stays in tensor memory.

The interpreter of Mosaic GPU runs all of tcgen05 (from jax 0.11 on), and all but wgmma on a transposed or register
operand: there, and only there, the products of `Wgmma` are jnp.dot on the same shared memory.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ar1_kernels import backend

COLUMNS = 512  # of tensor memory, 32 bits each


class Wgmma(NamedTuple):
    """Hopper: tiles of 64 rows, the left operand of a sum and the sums in registers."""

    interpret: bool

    rows = 64
    tensor_memory = False
    # A thread's, by consumers: (consumer, producer). The kernel starts with an equal share of the multiprocessor's
    # 65,536 for all threads; what consumers gain the producer must give. One consumer has enough as it is.
    registers = {1: None, 2: (232, 40), 3: (160, 32)}

    @staticmethod
    def scratch(consumers, keys, width, sums, dtype):
        """Scratch types that all consumers' products take: none."""
        return ()

    @staticmethod
    def scratch_of_sums(consumers, shape):
        """Scratch types of one sum a consumer, where both operands lie in shared memory: none."""
        return ()

    @classmethod
    def of(cls, scratch, me, interpret):
        """The unit of consumer `me`, with its part of `scratch`."""
        return cls(interpret)

    def scores(self, a, b):
        """a [rows, E] · b [n, E]^T -> float32 [rows, n]; a and b refs in shared memory."""
        if self.interpret:
            product = jnp.dot(a[...], b[...].T, preferred_element_type=jnp.float32)
            plgpu.commit_smem()  # wgmma reads as TMA writes, by the asynchronous proxy; what stands in does not
            return product

        def product(acc):
            plgpu.wgmma(acc, a, b.T)
            return acc[...]

        return pl.run_scoped(product, plgpu.ACC((a.shape[0], b.shape[0]), jnp.float32))

    def start(self, n, width):
        """Sum number n, float32 [rows, width], at 0."""
        return jnp.zeros((self.rows, width), jnp.float32)

    def add(self, n, total, a, b):
        """total + a · b; a [rows, keys] in registers, b a ref [keys, width] in shared memory."""
        if self.interpret:
            product = jnp.dot(a, b[...], preferred_element_type=jnp.float32)
            plgpu.commit_smem()
            return total + product
        return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(total))

    def scale(self, n, total, factor):
        """total with each row times factor [rows]."""
        return total * down(factor, total.shape)

    def write(self, n, total, to, value):
        """to[...] = value(total), ref [rows, width] in shared memory; value: float32 [rows, m] -> [rows, m]."""
        to[...] = value(total).astype(to.dtype)


class Tcgen05(NamedTuple):
    """Blackwell: tiles of 128 rows, scores, weights and sums in tensor memory. Methods as Wgmma's.

    scores_ref [128, keys] float32, weights_ref [128, keys], sums [128, width] float32 each: in tensor memory, this
    warpgroup's; done: its barrier, on which the unit arrives behind a product.
    """

    scores_ref: Any
    weights_ref: Any
    sums: tuple
    done: Any

    rows = 128
    tensor_memory = True
    registers = {1: None, 2: (208, 88)}  # with 40 the producer spills; sums take none of a consumer's

    @staticmethod
    def scratch(consumers, keys, width, sums, dtype):
        """Of all consumers, beside each other. ValueError where the columns do not suffice."""
        packing = 4 // jnp.dtype(dtype).itemsize
        columns = consumers * (keys + keys // packing + sums * width)
        if columns > COLUMNS:
            raise ValueError(
                f"pallas_gpu: {consumers} consumers, {keys} keys and {sums} sums of width {width} take {columns} "
                f"columns of tensor memory, there are {COLUMNS}"
            )
        wide = lambda n, dtype=jnp.float32, **rest: plgpu.TMEM((Tcgen05.rows, consumers * n), dtype, **rest)
        return (
            wide(keys), wide(keys, dtype, packed=packing > 1), tuple(wide(width) for _ in range(sums)),
            plgpu.Barrier(num_barriers=consumers, orders_tensor_core=True),
        )  # fmt: skip

    @staticmethod
    def scratch_of_sums(consumers, shape):
        """Of all consumers beside each other, and the barriers on which their products end."""
        rows, width = shape
        return (
            plgpu.TMEM((rows, consumers * width), jnp.float32),
            plgpu.Barrier(num_barriers=consumers, orders_tensor_core=True),
        )

    @classmethod
    def of(cls, scratch, me, interpret):
        scores, weights, sums, done = scratch
        consumers = done.shape[0]

        def mine(ref):
            n = ref.shape[1] // consumers
            return ref if consumers == 1 else ref.at[:, pl.ds(me * n, n)]

        return cls(mine(scores), mine(weights), tuple(map(mine, sums)), done.at[me])

    def _product(self, to, a, b, accumulate):
        plgpu.tcgen05_mma(to, a, b, self.done, accumulate=accumulate)
        plgpu.barrier_wait(self.done)

    def scores(self, a, b):
        self._product(self.scores_ref, a, b.T, False)
        return load(self.scores_ref)

    def start(self, n, width):
        plgpu.async_store_tmem(self.sums[n], jnp.zeros((self.rows, width), jnp.float32))
        plgpu.commit_tmem()
        return ()

    def add(self, n, total, a, b):
        plgpu.async_store_tmem(self.weights_ref, a)
        plgpu.commit_tmem()  # those of `scale` too
        self._product(self.sums[n], self.weights_ref, b, True)
        return ()

    def scale(self, n, total, factor):
        """Its stores are committed by the next `add`."""
        for columns in self._parts(n):
            value = load(self.sums[n].at[:, columns])
            plgpu.async_store_tmem(self.sums[n].at[:, columns], value * down(factor, value.shape))
        return ()

    def write(self, n, total, to, value):
        for columns in self._parts(n):
            to[:, columns] = value(load(self.sums[n].at[:, columns])).astype(to.dtype)

    def _parts(self, n):
        """Columns that pass through the registers together: half of a wide sum."""
        width = self.sums[n].shape[1]
        part = width // 2 if width == 128 else width
        return [pl.ds(first, part) for first in range(0, width, part)]


UNITS = {"wgmma": Wgmma, "tcgen05": Tcgen05}
MULTIPROCESSORS = {"wgmma": 132, "tcgen05": 148}  # of H100, H200 and GH200 (SXM); of B200
KINDS = {"wgmma": ("H100", "H200", "GH200", "H800", "H20"), "tcgen05": ("B200", "GB200", "B300", "GB300")}


def check(unit: str, consumers: int):
    """ValueError for a unit that is none and for a number of consumers that its registers are not divided for."""
    if unit not in UNITS:
        raise ValueError(f"Blocks: unit={unit!r} is not one of {', '.join(UNITS)}")
    known = UNITS[unit].registers
    if consumers not in known:
        raise ValueError(f"Blocks: consumers={consumers} is not one of {', '.join(map(str, known))}")


def unit_of(kind: str) -> str | None:
    """The unit of a device as jax names it ("NVIDIA H200"); None: it has neither."""
    words = kind.split()
    return next((unit for unit, names in KINDS.items() if any(name in words for name in names)), None)


def here(given, table):
    """Block sizes `given`, else table(unit) for the device that is traced for; ValueError where it lacks their unit."""
    kind = backend.target().kind
    unit = unit_of(kind)
    if given is None:
        return table(unit or "wgmma")
    if unit and unit != given.unit:
        raise ValueError(f"pallas_gpu: blocks.unit={given.unit!r} is not the unit of {kind}, {unit!r}")
    return given


def refusal(kind: str) -> str | None:
    """Why the kernels cannot run on a device of `kind` ("": unknown), or None."""
    if not kind or unit_of(kind):
        return None
    return (
        "they use the matrix instructions of Hopper (wgmma, compute capability 9) or of Blackwell for data centres "
        f"(tcgen05, 10), which {kind} does not have"
    )


def load(ref):
    """The value of a ref in tensor memory, after which this warpgroup and its products may write there again."""
    value = plgpu.async_load_tmem(ref)
    plgpu.wait_load_tmem()
    return value


def down(x, shape):
    """One value per row, [rows] -> [rows, n]."""
    return lax.broadcast_in_dim(x, shape, [0])


def across(x, shape):
    """One value per column, [n] -> [rows, n]."""
    return lax.broadcast_in_dim(x, shape, [1])
