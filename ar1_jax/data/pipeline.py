"""The training pipeline: batch index -> batch of samples, read ahead by grain threads, resumable from one number.

A batch depends on its index and the settings only (see `reuse.py`), never on what was read before or on the number
of threads. The iterator's state, {"next_index": n}, is JSON and belongs into the checkpoint. Threads, no worker
processes: rendering releases the interpreter, and a process would cost seconds to start.
"""

import dataclasses

import numpy as np

from ar1_jax.data import augment, reuse


@dataclasses.dataclass(frozen=True)
class Augment:
    """Strength of brightness and contrast (see `augment`), and the share of scenes shown without pictures."""

    brightness: float = 0.1
    contrast: float = 0.2
    drop: float = 0.05


def sample_batch(chunks, layout, settings, index):
    """Batch `index`: the arrays of `reuse.gather` with changed images, and `seen` f32 [B], 0 where they are grey.

    Every draw comes from a generator seeded by (layout.seed, index).
    """
    batch = reuse.gather(chunks, layout, index)
    rng = np.random.default_rng([layout.seed, 1 << 20, index])
    images = augment.brightness_and_contrast(batch["images"], rng, settings.brightness, settings.contrast)
    seen = rng.random(layout.batch) >= settings.drop
    images[~seen] = augment.GREY
    return batch | {"images": images, "seen": seen.astype(np.float32)}


def training_iterator(make, layout, settings, *, threads=2, ahead=8):
    """Endless grain iterator over `sample_batch`; `make(chunk number) -> dict of arrays [chunk, ...]`.

    `get_state()` and `set_state()` give and take {"next_index": n}: the first batch not yet handed out.
    At most `ahead` batches wait in memory, besides two blocks of chunks.
    """
    import grain

    chunks = reuse.Chunks(make, keep=2 * layout.block // layout.chunk)
    indices = grain.MapDataset.range(1).repeat()  # grain counts; the index, not the element, makes the batch
    dataset = indices.map_with_index(lambda index, _: sample_batch(chunks, layout, settings, index))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(dataset.to_iter_dataset(options))
