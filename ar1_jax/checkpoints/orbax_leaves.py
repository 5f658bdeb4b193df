"""Orbax checkpoints of arrays that are made when they are written, one leaf in memory at a time.

Orbax takes whole trees, copies NumPy leaves, and in its packed format (OCDBT) keeps all encoded chunks until the end:
three times the parameters. A handler for leaves that do not exist yet hands them to orbax's own handlers one by one,
and plain zarr files without compression (weights hardly shrink) take a leaf's bytes as they lie. What is written is an
ordinary checkpoint: orbax restores it, sharded or not."""

import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable

import numpy as np

from ar1_jax.core import trees

LAYERED = (
    1 << 22
)  # bytes of a layer from which a stacked leaf is stored layer by layer: readers then hold one more


@dataclasses.dataclass(frozen=True)
class Later:
    """A leaf to be: make(out) -> a NumPy array (`out`, filled), or a jax.Array where `sharded` (then out is None)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable
    sharded: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write(path: pathlib.Path, leaves: dict[str, Later]) -> None:
    """Saves leaves by path as an orbax checkpoint; in several processes all leaves must be sharded."""
    import orbax.checkpoint as ocp

    ours = ocp.type_handlers.create_type_handler_registry((Later, _handler(leaves)))
    chunks = {p: ocp.SaveArgs(shard_axes=(0,) if _layered(leaf) else ()) for p, leaf in leaves.items()}
    options = {"use_ocdbt": False, "use_compression": False, "type_handler_registry": ours}
    talk = logging.getLogger("absl")
    level = talk.level
    talk.setLevel(logging.ERROR)  # orbax warns of the packed format's absence, which is meant
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(trees.nest(leaves), save_args=trees.nest(chunks)))
    finally:
        talk.setLevel(level)


def _layered(leaf: Later) -> bool:
    """Is it a stack of large kernels?"""
    return len(leaf.shape) == 3 and leaf.nbytes >= LAYERED * leaf.shape[0]


def _handler(leaves: dict[str, Later]):
    """Orbax's way to write a leaf: make it, write it, wait, and use its memory for the next."""
    import orbax.checkpoint as ocp

    sharded = any(leaf.sharded for leaf in leaves.values())
    largest = max(0 if leaf.sharded else leaf.nbytes for leaf in leaves.values())
    buffer = np.empty(largest, np.uint8)
    inner = (
        ocp.type_handlers.ArrayHandler(array_metadata_store=None)
        if sharded
        else ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    )

    class OneByOne(ocp.type_handlers.TypeHandler):
        """Saves only; what it writes carries the inner handler's name."""

        def typestr(self):
            return inner.typestr()

        async def metadata(self, infos):
            return await inner.metadata(infos)

        async def deserialize(self, infos, args=None):
            return await inner.deserialize(infos, args)

        async def serialize(self, values, infos, args=None):
            for leaf, info, arg in zip(values, infos, args, strict=True):
                room = None if leaf.sharded else buffer[: leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
                for written in await inner.serialize([leaf.make(room)], [info], [arg]):
                    written.result()
            return []

    return OneByOne()
