"""Our own form of a Hugging Face folder: parameters by orbax, all else as it was, and a record of the way back.

    FOLDER/params/              our parameter tree, sharded as it was saved, by orbax, in the dtypes of the source
           buffers.safetensors  Alpamayo 1's stored constants, where there are any
           converted.json       the source's safetensors headers and index as they stood; bare: names without `vlm.`
           config.json vlm/ ... the source's other files, byte for byte
           manifest.json        size and CRC-32 of every file above

Reading checks the manifest, then names and shapes, and restores straight to the shardings asked for."""

import json
import pathlib

import jax
import numpy as np
import safetensors.numpy

from ar1_jax.checkpoints import huggingface, runs, tensor_files
from ar1_jax.core import errors, trees

RECORD, BUFFERS, PARAMS = "converted.json", "buffers.safetensors", "params"
OWN = (RECORD, BUFFERS, runs.MANIFEST)


def is_one(folder: pathlib.Path) -> bool:
    """Is this a folder of ours?"""
    return (pathlib.Path(folder) / RECORD).is_file()


def write(
    staging: pathlib.Path, params, buffers: dict[str, np.ndarray], headers: dict[str, tensor_files.Header],
    index: str, bare: bool,
) -> None:  # fmt: skip
    """Fills a new folder that already holds the files to keep; params: arrays, sharded or not.

    headers, index: the layout that a way back to safetensors takes. CheckpointError where orbax cannot write."""
    record = {"version": 1, "bare": bare, "index": index, "headers": {f: h.text for f, h in headers.items()}}
    (staging / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    if buffers:
        safetensors.numpy.save_file(buffers, staging / BUFFERS, metadata={"format": "pt"})
    try:
        runs.write_arrays(staging / PARAMS, params)
    except OSError:
        raise
    except Exception as error:  # orbax wraps what the disk says in errors of its own
        raise errors.CheckpointError(f"{staging / PARAMS}: cannot be written: {error}") from error
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


def read(folder: pathlib.Path, shapes, dtype=None, shardings=None):
    """The parameters in the layout of `shapes`: NumPy arrays, or jax.Arrays where `shardings` (a tree) is given.

    shapes: the saved tree, or some of its top-level parts. dtype: of all leaves, None as stored. CheckpointError where
    a file is torn or names or shapes differ."""
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder).absolute()
    runs.verify(folder)
    placed = {} if shardings is None else trees.flatten(shardings)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(folder / PARAMS).item_metadata.tree
        found = trees.flatten({part: saved[part] for part in shapes if part in saved})
        wanted = {
            path: jax.ShapeDtypeStruct(leaf.shape, found[path].dtype if path in found else leaf.dtype)
            for path, leaf in trees.flatten(shapes).items()
        }
        errors.raise_all(trees.differences(found, wanted), str(folder / PARAMS), errors.CheckpointError)
        orders = {}
        for path, leaf in wanted.items():
            kind = np.dtype(dtype or leaf.dtype)
            if path in placed:
                orders[path] = ocp.ArrayRestoreArgs(
                    sharding=placed[path], global_shape=leaf.shape, dtype=kind
                )
            else:
                orders[path] = ocp.RestoreArgs(restore_type=np.ndarray, dtype=kind)
        order = ocp.args.PyTreeRestore(
            item=trees.nest(wanted), restore_args=trees.nest(orders), partial_restore=True
        )
        try:
            return reader.restore(folder / PARAMS, args=order)
        except Exception as error:
            raise errors.CheckpointError(
                f"{folder / PARAMS}: cannot be read although its checksums hold ({error})"
            ) from error
