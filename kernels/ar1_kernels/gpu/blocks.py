"""Block sizes of the GPU attention kernels: one table by unit, operation and shape.

No chip was at hand to tune them: they follow from a multiprocessor's 227 KB of shared memory, 65,536 registers and, on
Blackwell, 512 columns of tensor memory, and the compiler's own register report bounds them
(tests/kernels/test_ahead_gpu.py).
"""

import dataclasses

from ar1_kernels.gpu import products
from ar1_kernels.gpu.products import UNITS


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the attention kernels.

    unit: that multiplies, a key of products.UNITS. consumers: warpgroups that share a block's keys, each with the
    unit's tile of rows (64, Blackwell 128). keys: keys fetched at once, a multiple of 64.
    stages: blocks of keys and values on their way at once. splits: parts of a shared prefix that run at the same time
    where its rows alone do not fill the chip; None: as many as fill it.
    """

    consumers: int = 2
    keys: int = 128
    stages: int = 2
    splits: int | None = None
    unit: str = "wgmma"

    def __post_init__(self):
        products.check(self.unit, self.consumers)
        if self.keys <= 0 or self.keys % 64 or self.keys > 256:
            raise ValueError(f"Blocks: keys={self.keys} is not 64, 128, 192 or 256")
        if self.stages < 1:
            raise ValueError(f"Blocks: stages={self.stages} is not positive")
        if self.splits is not None and self.splits < 1:
            raise ValueError(f"Blocks: splits={self.splits} is not positive")

    @property
    def rows(self) -> int:
        """Rows of a block of threads."""
        return self.consumers * self.tile

    @property
    def tile(self) -> int:
        """Rows of a consumer."""
        return UNITS[self.unit].rows


TABLE = {
    "wgmma": {
        # Two tiles of keys and two of values of [128, 128] in bfloat16 are 128 KB, beside 64 KB of queries and results.
        "forward": Blocks(consumers=2, keys=128, stages=2),
        # Two score tiles live at once here, beside one (dq) or two (dk, dv) accumulators: tiles of 64.
        "backward": Blocks(consumers=2, keys=64, stages=2),
        # Few rows, where bandwidth decides: small blocks, many on their way.
        "stream": Blocks(consumers=1, keys=64, stages=4),
        # Rows of many short sequences: queries come ahead and results are float32, 128 KB of both.
        "together": Blocks(consumers=2, keys=64, stages=2),
    },
    "tcgen05": {
        # Two consumers take 2 (64 + 32 + 128) columns of tensor memory, and 128 KB of queries and results.
        "forward": Blocks(consumers=2, keys=64, stages=2, unit="tcgen05"),
        # The sums dk and dv of one consumer take 256 columns.
        "backward": Blocks(consumers=1, keys=64, stages=2, unit="tcgen05"),
        "stream": Blocks(consumers=1, keys=64, stages=3, unit="tcgen05"),
        # Two consumers' queries ahead and float32 results would take 256 KB.
        "together": Blocks(consumers=1, keys=64, stages=3, unit="tcgen05"),
    },
}


def choose(operation: str, rows: int, unit: str = "wgmma") -> Blocks:
    """Sizes for an operation: "forward", "backward", or of a shared prefix "joined", with `rows` rows of a sequence and
    kv head in tiles of their own, or "together", with `rows` rows of all its sequences."""
    table = TABLE[unit]
    if operation in ("joined", "together") and rows < table["forward"].rows:
        return table["stream"]
    return table["forward" if operation == "joined" else operation]


def here(operation: str, rows: int, given: Blocks | None) -> Blocks:
    """`given`, else the table's sizes for the device that is traced for; ValueError where it lacks their unit."""
    return products.here(given, lambda unit: choose(operation, rows, unit))
