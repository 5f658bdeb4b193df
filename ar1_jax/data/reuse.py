"""Which scenes a training batch holds, as a function of its index alone; and the chunks kept in memory for it.

Pixels are dear, so a block of scenes is gone through `reuse` times: first in order, while its chunks are rendered,
then in permutations. Nothing is remembered between batches, hence a resumed run needs one number. The seeds of the
scenes are counted up from 0 in the split: scene s lies in chunk s // chunk.
"""

import collections
import dataclasses
import threading

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """batch divides block, chunk divides block; block scenes are gone through reuse times; seed of the orders."""

    batch: int
    chunk: int
    block: int
    reuse: int
    seed: int

    def __post_init__(self):
        """ValueError where the sizes do not divide."""
        if self.block % self.batch or self.block % self.chunk or self.reuse < 1:
            raise ValueError(
                f"block {self.block} must be a multiple of batch {self.batch} and of chunk {self.chunk}"
            )

    def scenes(self, index):
        """Scene numbers i64 [batch] of batch `index`."""
        block, position = divmod(index, self.reuse * (self.block // self.batch))
        turn, position = divmod(position, self.block // self.batch)
        order = np.arange(self.block)
        if turn:
            order = np.random.default_rng([self.seed, block, turn]).permutation(self.block)
        return block * self.block + order[position * self.batch : (position + 1) * self.batch]


class Chunks:
    """The last `keep` chunks made by `make(number) -> dict of arrays [chunk, ...]`; safe under threads.

    Two threads that ask for one chunk wait for one making of it; different chunks are made side by side.
    """

    def __init__(self, make, keep):
        self._make, self._keep = make, keep
        self._lock = threading.Lock()
        self._slots = collections.OrderedDict()

    def get(self, number):
        """Chunk `number`, made if it is not kept."""
        with self._lock:
            slot = self._slots.setdefault(number, {"lock": threading.Lock(), "value": None})
            self._slots.move_to_end(number)
            while len(self._slots) > self._keep:
                self._slots.popitem(last=False)
        with slot["lock"]:
            if slot["value"] is None:
                slot["value"] = self._make(number)
            return slot["value"]


def gather(chunks, layout, index):
    """Batch `index` as a dict of arrays [batch, ...], rows in the order of `layout.scenes`."""
    scenes = layout.scenes(index)
    numbers, rows = np.divmod(scenes, layout.chunk)
    parts = {int(number): chunks.get(int(number)) for number in np.unique(numbers)}
    first = next(iter(parts.values()))
    batch = {name: np.empty((len(scenes), *value.shape[1:]), value.dtype) for name, value in first.items()}
    for number, part in parts.items():
        chosen = numbers == number
        for name, value in part.items():
            batch[name][chosen] = value[rows[chosen]]
    return batch
