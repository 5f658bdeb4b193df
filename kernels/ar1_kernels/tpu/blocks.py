"""Block sizes of the TPU kernels: one table by chip and shape.

No chip was at hand to tune them: they follow from the chips' VMEM, bandwidth and matrix units, and the compiler's own
memory report bounds them (tests/kernels/test_ahead_tpu.py).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from ar1_kernels import backend

LANES = 128  # of a vector register; arrays in VMEM are padded to it in their last dimension
SUBLANES = 16  # of a bfloat16 register: row counts are multiples of it
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the attention kernels.

    rows: rows of a score tile, a multiple of 16. keys: keys fetched at once, a multiple of 128; a score tile is
    [rows, keys]. resident: most rows held in VMEM at once, a multiple of `rows`; what is beyond makes another walk over
    the keys; None: as many as the chip's VMEM takes. suffix: keys of one sequence fetched at once (shared prefix), a
    multiple of 128. together: most keys of several short sequences scored at once, each by all rows of the group.
    """

    rows: int
    keys: int
    resident: int | None = None
    suffix: int = 256
    together: int = 2048

    def __post_init__(self):
        for name, unit in (("rows", SUBLANES), ("keys", LANES), ("suffix", LANES), ("resident", self.rows)):
            size = getattr(self, name)
            if size is not None and (size <= 0 or size % unit):
                raise ValueError(f"Blocks: {name}={size} is not a positive multiple of {unit}")
        if self.together < self.suffix:
            raise ValueError(f"Blocks: together={self.together} holds no block of suffix={self.suffix} keys")


class Chip(NamedTuple):
    """vmem: bytes of a core. stream: few rows, where bandwidth decides and long fetches hide a step's cost; tile: many
    rows, where small tiles waste less at a causal diagonal; backward: five products a tile, twice the live values."""

    vmem: int
    stream: Blocks
    tile: Blocks
    backward: Blocks


_SMALL = Chip(16 * MIB, Blocks(128, 512), Blocks(256, 256), Blocks(128, 256))
_MIDDLE = Chip(64 * MIB, Blocks(256, 1024, together=4096), Blocks(512, 512), Blocks(256, 512))
_LARGE = Chip(128 * MIB, Blocks(256, 1024, together=4096), Blocks(512, 512), Blocks(512, 512))
# The keys of a fetch: 1,024 of 128 in bfloat16 are 0.5 MB with their values, 0.64 µs at 819 GB/s (v5e); v6e has twice
# the bandwidth, so twice the keys.
CHIPS = {
    "TPU v4": _SMALL,
    "TPU v5 lite": _LARGE,
    "TPU v5": _MIDDLE,
    "TPU v6 lite": _LARGE._replace(stream=Blocks(256, 2048, together=4096)),
    "TPU7x": _MIDDLE._replace(stream=Blocks(256, 2048, together=4096)),
}
UNKNOWN = _MIDDLE  # a chip that is not in the table
FEW = 256  # rows up to which keys stream past rows that need one tile


def chip() -> Chip:
    """The table's line for the device that the program is traced for."""
    return CHIPS.get(backend.target().kind, UNKNOWN)


def choose(rows: int, dtype, *, backward: bool = False) -> Blocks:
    """Sizes for `rows` rows of a kv head on the device that the program is traced for; float32: half the keys."""
    line = chip()
    sizes = line.backward if backward else line.stream if rows <= FEW else line.tile
    return sizes if jnp.dtype(dtype).itemsize <= 2 else dataclasses.replace(sizes, keys=sizes.keys // 2)
