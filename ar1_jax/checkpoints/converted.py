"""Our own form of a Hugging Face folder: parameters by orbax, all else as it was, and a record of the way back.

    FOLDER/params/              our parameter tree, cut as it was saved, by orbax, in the dtypes of the source
           buffers.safetensors  Alpamayo 1's stored constants, where there are any
           converted.json       the source's safetensors headers and index as they stood; bare: names without `vlm.`
           config.json vlm/ ... the source's other files, byte for byte
           manifest.json        size and CRC-32 of every file above

Reading checks the manifest, then names and shapes, and restores straight to the shardings asked for."""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import safetensors.numpy

from ar1_jax.checkpoints import huggingface, orbax_leaves, runs, tensor_files
from ar1_jax.core import errors, trees

RECORD, BUFFERS, PARAMS = "converted.json", "buffers.safetensors", "params"
OWN = (RECORD, BUFFERS, runs.MANIFEST)


def is_one(folder: pathlib.Path) -> bool:
    """Is this a folder of ours?"""
    return (pathlib.Path(folder) / RECORD).is_file()


def write(
    staging: pathlib.Path, leaves: dict[str, orbax_leaves.Later], buffers: dict[str, np.ndarray],
    headers: dict[str, tensor_files.Header], index: str, bare: bool,
) -> None:  # fmt: skip
    """Fills a new folder that already holds the files to keep; leaves: by path, made one after the other.

    headers, index: the layout that a way back to safetensors takes. Call it in every process. CheckpointError where
    orbax cannot write."""
    try:
        orbax_leaves.write(staging / PARAMS, leaves)
    except (OSError, errors.CheckpointError):
        raise
    except Exception as error:  # orbax wraps what the disk says in errors of its own
        raise errors.CheckpointError(f"{staging / PARAMS}: cannot be written: {error}") from error
    if jax.process_index() == 0:
        record = {
            "version": 1,
            "bare": bare,
            "index": index,
            "headers": {f: h.text for f, h in headers.items()},
        }
        (staging / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if buffers:
            safetensors.numpy.save_file(buffers, staging / BUFFERS, metadata={"format": "pt"})
        runs.write_manifest(staging)


def record(folder: pathlib.Path) -> tuple[dict[str, tensor_files.Header], str, bool]:
    """Headers by file name, index and bareness of the folder's way back; CheckpointError where they cannot be read."""
    content = huggingface.read_json(folder / RECORD)
    try:
        headers = {file: tensor_files.parse(text) for file, text in content["headers"].items()}
        return headers, content["index"], content["bare"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.CheckpointError(f"{folder / RECORD}: not a record of a conversion ({error})") from error


def buffers(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Alpamayo 1's stored constants by checkpoint name, as stored."""
    file = pathlib.Path(folder) / BUFFERS
    if not file.is_file():
        return {}
    header = tensor_files.read_header(file)
    with tensor_files.Reader({file: header}) as reader:
        return {name: reader.rows(name) for name in header.entries}


def read(
    folder: pathlib.Path, shapes, dtype=None, shardings=None, finish: Callable = lambda x: x, verified: bool = False
):  # fmt: skip
    """The parameters in the layout of `shapes`: NumPy arrays, or jax.Arrays where `shardings` (a tree) is given.

    shapes: the saved tree, or some of its top-level parts. dtype: of all leaves, None as stored. finish: applied to
    each NumPy array as soon as it is read. verified: checksums were compared before. CheckpointError where a
    file is torn or names or shapes differ."""
    if not verified:
        runs.verify(pathlib.Path(folder).absolute())
    with Leaves(folder, shapes, dtype) as leaves:
        return huggingface.read_all(leaves, shapes, shardings, finish)


class Leaves:
    """The saved parameters leaf by leaf, by path, through orbax; CheckpointError where names or shapes differ.

    shapes: the saved tree, or some of its top-level parts; dtype: of all, None as stored."""

    def __init__(self, folder: pathlib.Path, shapes, dtype=None):
        import orbax.checkpoint as ocp

        self.place = pathlib.Path(folder).absolute() / PARAMS
        self.handler = ocp.PyTreeCheckpointHandler()  # no Checkpointer: processes may read different leaves
        saved = self.handler.metadata(self.place).tree
        found = trees.flatten({part: saved[part] for part in shapes if part in saved})
        wanted = {
            path: jax.ShapeDtypeStruct(leaf.shape, found[path].dtype if path in found else leaf.dtype)
            for path, leaf in trees.flatten(shapes).items()
        }
        errors.raise_all(trees.differences(found, wanted), str(self.place), errors.CheckpointError)
        self.dtypes = {path: np.dtype(dtype or leaf.dtype) for path, leaf in wanted.items()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handler.close()

    def read(self, path: str, shape: tuple[int, ...], sharding=None, out: np.ndarray | None = None):
        """A NumPy array, `out` where it is given; with a sharding a jax.Array."""
        import orbax.checkpoint as ocp

        kind = self.dtypes[path]
        order = ocp.RestoreArgs(restore_type=np.ndarray, dtype=kind)
        if sharding is not None:
            order = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=shape, dtype=kind)
        args = ocp.args.PyTreeRestore(
            item=trees.nest({path: jax.ShapeDtypeStruct(shape, kind)}),
            restore_args=trees.nest({path: order}),
            partial_restore=True,
        )
        try:
            leaf = trees.flatten(self.handler.restore(self.place, args=args))[path]
        except Exception as error:
            raise errors.CheckpointError(
                f"{self.place}: {path} cannot be read although its checksums hold ({error})"
            ) from error
        if out is None:
            return leaf
        out[...] = leaf
        return out
