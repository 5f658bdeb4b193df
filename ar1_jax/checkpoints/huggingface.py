"""Hugging Face folders of safetensors: read into our parameter tree and write back, by the table in names.py.

Every file is checked before a tensor is read: missing, extra and misshapen tensors, absent or torn files are one
CheckpointError that lists them all. Reading fills one preallocated array a leaf; writing goes to a temporary sibling.
"""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ar1_jax.checkpoints import names
from ar1_jax.core import errors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def read_json(path: pathlib.Path) -> dict:
    """A JSON object; CheckpointError where the file is missing or is none."""
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.CheckpointError(f"{path}: missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise errors.CheckpointError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise errors.CheckpointError(f"{path}: a JSON object was expected, found {type(value).__name__}")
    return value


def files(folder: pathlib.Path) -> dict[str, str]:
    """Tensor name -> file name of a folder; CheckpointError names absent and torn files and pickled weights."""
    folder = pathlib.Path(folder)
    if (folder / INDEX).is_file():
        wanted = read_json(folder / INDEX).get("weight_map")
        if not isinstance(wanted, dict):
            raise errors.CheckpointError(f"{folder / INDEX}: key weight_map is missing")
    elif (folder / SINGLE).is_file():
        wanted = None
    else:
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
        if pickled:
            raise errors.CheckpointError(f"{folder}: pickled weights ({', '.join(pickled)}) are refused because reading "
                                         "them can run code; save them as safetensors first")  # fmt: skip
        raise errors.CheckpointError(f"{folder}: neither {SINGLE} nor {INDEX} is there")
    found, problems = {}, []
    for file in sorted(set(wanted.values())) if wanted else [SINGLE]:
        try:
            with safetensors.safe_open(folder / file, framework="numpy") as opened:
                found.update(dict.fromkeys(opened.keys(), file))
        except FileNotFoundError:
            problems.append(f"{file}: named by {INDEX} but absent")
        except (safetensors.SafetensorError, OSError) as error:
            problems.append(f"{file}: torn or corrupt ({error})")
    if wanted and not problems:
        problems += [f"{name}: {INDEX} says {file}, found in {found.get(name, 'no file')}"
                     for name, file in wanted.items() if found.get(name) != file]  # fmt: skip
    errors.raise_all(problems, str(folder), errors.CheckpointError)
    return found


def _leaves(shapes) -> dict[str, jax.ShapeDtypeStruct]:
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


def tensors(shapes, conv, action_layers) -> dict[str, tuple[names.Row, int | None, tuple[int, ...]]]:
    """Checkpoint name -> (row, layer or None, the checkpoint's shape) for the parameter shapes of a model."""
    leaves, wanted = _leaves(shapes), {}
    for row in names.table(action_layers):
        shape = leaves[row.path].shape
        if "{i}" in row.name:
            for i in range(shape[0]):
                wanted[row.name.format(i=i)] = (row, i, names.their_shape(shape[1:], row.transform, conv))
        else:
            wanted[row.name] = (row, None, names.their_shape(shape, row.transform, conv))
    return wanted


def read(folder: pathlib.Path, shapes, conv, action_layers, dtype=np.float32):
    """The parameters of a folder in the layout of `shapes` (a tree of ShapeDtypeStruct), as NumPy arrays of `dtype`.

    Raises CheckpointError listing every missing, unknown or misshapen tensor.
    """
    folder = pathlib.Path(folder)
    where = files(folder)
    wanted = tensors(shapes, conv, action_layers)
    problems = [f"{name}: missing" for name in wanted if name not in where]
    problems += [
        f"{name}: unknown tensor"
        for name in where
        if name not in wanted and not names.BUFFERS.fullmatch(name)
    ]
    leaves = {path: np.empty(leaf.shape, dtype) for path, leaf in _leaves(shapes).items()}
    for file in sorted(set(where.values())):
        with safetensors.safe_open(folder / file, framework="numpy") as opened:
            for name in opened.keys():
                if name not in wanted:
                    continue
                row, layer, shape = wanted[name]
                found = tuple(opened.get_slice(name).get_shape())
                if found != shape:
                    problems.append(f"{name}: shape {list(found)}, expected {list(shape)}")
                    continue
                target = leaves[row.path] if layer is None else leaves[row.path][layer]
                target[...] = names.to_ours(opened.get_tensor(name), row.transform).astype(dtype)
    errors.raise_all(problems, str(folder), errors.CheckpointError)
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)
    return jax.tree_util.tree_unflatten(
        tree, [leaves["/".join(key.key for key in path)] for path, _ in paths]
    )


def buffers(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The constants that Alpamayo 1 stores beside its parameters, float32, by checkpoint name; often none."""
    folder, found = pathlib.Path(folder), {}
    for name, file in files(folder).items():
        if names.BUFFERS.fullmatch(name):
            with safetensors.safe_open(folder / file, framework="numpy") as opened:
                found[name] = opened.get_tensor(name).astype(np.float32)
    return found


def write(
    folder: pathlib.Path, params, config: dict, extra_files: dict[str, str], conv, action_layers
) -> None:
    """Write params, config.json and extra text files (relative name -> content) as a new folder, all or nothing.

    CheckpointError where the target exists and is not empty or cannot be written.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.CheckpointError(f"{folder}: exists and is not empty; name a new folder")
    staging = folder.with_name(folder.name + f".writing-{os.getpid()}")
    leaves = _leaves(params)
    try:
        staging.mkdir(parents=True)
        arrays = {}
        for name, (row, layer, shape) in tensors(params, conv, action_layers).items():
            leaf = np.asarray(leaves[row.path] if layer is None else leaves[row.path][layer])
            arrays[name] = np.ascontiguousarray(names.to_theirs(leaf, row.transform, shape))
        safetensors.numpy.save_file(arrays, staging / SINGLE, metadata={"format": "pt"})
        for name, text in {"config.json": json.dumps(config, indent=2) + "\n", **extra_files}.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)
    except OSError as error:
        raise errors.CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
