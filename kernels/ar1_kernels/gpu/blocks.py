"""Block sizes of the GPU kernels: one table by operation and shape, for Hopper.

No chip was at hand to tune them: they follow from the 227 KB of shared memory and the 65,536 registers of a
multiprocessor, and the compiler's own register report bounds them (tests/kernels/test_ahead_gpu.py).
"""

import dataclasses

from ar1_kernels.gpu.warpgroup import REGISTERS, ROWS

MULTIPROCESSORS = 132  # of H100, H200 and GH200 in their SXM form
SHARED_MEMORY = 232_448  # bytes that a block of threads may ask for


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the attention kernels.

    consumers: warpgroups of 64 rows each that share a block's keys. keys: keys fetched at once, a multiple of 64.
    stages: blocks of keys and values on their way at once. splits: parts of a shared prefix that run at the same time
    where its rows alone do not fill the chip; None: as many as fill it.
    """

    consumers: int = 2
    keys: int = 128
    stages: int = 2
    splits: int | None = None

    def __post_init__(self):
        if self.consumers not in REGISTERS:
            raise ValueError(
                f"Blocks: consumers={self.consumers} is not one of {', '.join(map(str, REGISTERS))}"
            )
        if self.keys <= 0 or self.keys % ROWS or self.keys > 256:
            raise ValueError(f"Blocks: keys={self.keys} is not 64, 128, 192 or 256")
        if self.stages < 1:
            raise ValueError(f"Blocks: stages={self.stages} is not positive")
        if self.splits is not None and self.splits < 1:
            raise ValueError(f"Blocks: splits={self.splits} is not positive")

    @property
    def rows(self) -> int:
        """Rows of a block of threads."""
        return self.consumers * ROWS


# Two tiles of keys and two of values of [128, 128] in bfloat16 are 128 KB, beside 64 KB of queries and results.
FORWARD = Blocks(consumers=2, keys=128, stages=2)
# Two score tiles live at once here, beside one (dq) or two (dk, dv) accumulators: tiles of 64.
BACKWARD = Blocks(consumers=2, keys=64, stages=2)
# Few rows, where bandwidth decides: small blocks, many on their way.
STREAM = Blocks(consumers=1, keys=64, stages=4)


def choose(operation: str, rows: int) -> Blocks:
    """Sizes for `operation` ("forward", "backward", "shared") with `rows` rows of a sequence and kv head."""
    if operation == "backward":
        return BACKWARD
    return FORWARD if operation == "forward" or rows >= 2 * ROWS else STREAM
