"""Checkpoints of our own runs: what a restart needs to continue bit for bit, written whole or not at all.

    DIRECTORY/00000120/params/      arrays, by orbax (every process writes its shards)
                       optimizer/   arrays, by path
                       loop.json    step, data position, random key
                       config.json  the configuration of the run
                       manifest.json  size and CRC-32 of every file above

A step is written as .00000120.tmp and renamed when it is complete and on disk; a folder without manifest does not
count. Reading compares sizes, checksums, names, shapes and dtypes first and reports all differences together.
Not here: Hugging Face folders (huggingface.py)."""

import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ar1_jax.checkpoints import json_values
from ar1_jax.core import errors, trees

ARRAYS, TEXTS, MANIFEST = ("params", "optimizer"), ("loop", "config"), "manifest.json"


class Checkpoint(NamedTuple):
    """One restored step. Items that were not saved or not asked for are None."""

    step: int
    params: Any = None
    optimizer: Any = None
    loop: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


def save(directory: str | os.PathLike, step: int, items: Mapping[str, Any], keep: int = 3) -> pathlib.Path:
    """Writes DIRECTORY/<step>/ and removes all but the `keep` newest complete steps; returns the folder.

    items: "params" and "optimizer" are trees of arrays (any dtype, sharded or not), "loop" a dict of JSON values,
    arrays and random keys, "config" a ConfigDict or dict; each may be left out. Call it in every process.
    Raises CheckpointError for unknown items and where the folder cannot be written; nothing half-written counts."""
    directory = pathlib.Path(directory).absolute()
    if unknown := sorted(set(items) - {*ARRAYS, *TEXTS}):
        raise errors.CheckpointError(
            f"{directory}: unknown items {unknown}; known: {', '.join(ARRAYS + TEXTS)}"
        )
    final, half = directory / f"{step:08d}", directory / f".{step:08d}.tmp"
    first = jax.process_index() == 0
    try:
        if first:
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
        barrier("made")
        for name in ARRAYS:
            if name in items:
                write_arrays(half / name, items[name])
        if first:
            for name in TEXTS:
                if name in items:
                    (half / f"{name}.json").write_text(json_values.dumps(plain(items[name])))
            write_manifest(half)
            publish(half, final)
            prune(directory, keep)
        barrier("saved")
    except OSError as e:
        raise errors.CheckpointError(f"{final}: cannot be written ({e.strerror or e})") from e
    return final


def restore(
    directory: str | os.PathLike, like: Mapping[str, Any], step: int | None = None, fall_back: bool = False
) -> Checkpoint:
    """The newest complete step of DIRECTORY (or `step`), its arrays laid out like those of `like`.

    like: {"params": tree, "optimizer": tree}, leaves arrays or jax.ShapeDtypeStruct; a leaf with a sharding is restored
    to that sharding; either item may be left out. Raises CheckpointError where there is no step, a file is torn or
    corrupt, or the trees differ. With `fall_back` a torn step is passed over for the one before it."""
    directory = pathlib.Path(directory).absolute()
    candidates = [step] if step is not None else steps(directory)[::-1]
    if not candidates:
        raise errors.CheckpointError(
            f"{directory}: no complete checkpoint; expected a folder such as 00000100/"
        )
    for number in candidates:
        folder = directory / f"{number:08d}"
        try:
            verify(folder)
        except errors.CheckpointError:
            if not fall_back or number == candidates[-1]:
                raise
            continue
        arrays = {name: read_arrays(folder / name, like[name]) for name in ARRAYS if name in like}
        return Checkpoint(number, **arrays, **{name: read_text(folder, name) for name in TEXTS})


def load_params(path: str | os.PathLike, like: Any = None) -> dict[str, Any]:
    """The parameters alone, from a run folder, its checkpoints/ or one step; with `like` checked and laid out like it,
    else nested dicts of NumPy arrays. Raises CheckpointError as `restore` does."""
    path = pathlib.Path(path).absolute()
    if not (path / MANIFEST).exists():
        path = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if latest(path) is None:
            raise errors.CheckpointError(
                f"{path}: no complete checkpoint; expected a folder such as 00000100/"
            )
        path = path / f"{latest(path):08d}"
    verify(path)
    return read_arrays(path / "params", like)


def steps(directory: str | os.PathLike) -> list[int]:
    """Complete steps, oldest first."""
    folder = pathlib.Path(directory)
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(f.name) for f in found if f.name.isdigit() and (f / MANIFEST).exists())


def latest(directory: str | os.PathLike) -> int | None:
    """The newest complete step, or None."""
    return max(steps(directory), default=None)


def is_run(folder: pathlib.Path) -> bool:
    """A folder that rl or sft wrote: checkpoints/ or best/ with a complete step."""
    return latest(folder / "checkpoints") is not None or latest(folder / "best") is not None


def verify(folder: pathlib.Path) -> None:
    """Compares every file of a step with its manifest; CheckpointError names all that are missing, short or changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as e:
        raise errors.CheckpointError(
            f"{folder / MANIFEST}: no readable manifest, the step is not complete ({e})"
        ) from e
    problems = []
    for name, (size, checksum) in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file}: missing, expected {size} bytes")
        elif file.stat().st_size != size:
            problems.append(f"{file}: {file.stat().st_size} bytes, expected {size} (torn)")
        elif crc(file) != checksum:
            problems.append(f"{file}: checksum {crc(file):08x}, expected {checksum:08x} (corrupt)")
    errors.raise_all(problems, f"checkpoint {folder}", errors.CheckpointError)


def write_arrays(path: pathlib.Path, tree: Any) -> None:
    """Saves a tree by path with orbax. Empty arrays are left out, random keys are saved as their words."""
    import orbax.checkpoint as ocp

    flat = {p: saved_form(leaf) for p, leaf in trees.flatten(tree).items() if np.size(leaf)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(path, args=ocp.args.PyTreeSave(trees.nest(flat)))


def read_arrays(path: pathlib.Path, like: Any) -> Any:
    """The tree at `path` in structure, dtypes and shardings of `like`; without `like` nested dicts of NumPy arrays."""
    import orbax.checkpoint as ocp

    if not path.is_dir():
        raise errors.CheckpointError(f"{path}: missing; this checkpoint holds no {path.name}")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = trees.flatten(reader.metadata(path).item_metadata.tree)
        wanted = {} if like is None else {p: saved_form(leaf) for p, leaf in trees.flatten(like).items()}
        expected = found if like is None else {p: leaf for p, leaf in wanted.items() if np.prod(leaf.shape)}
        errors.raise_all(trees.differences(found, expected), str(path), errors.CheckpointError)
        arguments = {p: restore_argument(leaf, ocp) for p, leaf in expected.items()}
        try:
            tree = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=trees.nest(arguments)))
        except Exception as e:
            raise errors.CheckpointError(f"{path}: cannot be read although its checksums hold ({e})") from e
    flat = trees.flatten(tree)
    return (
        trees.nest(flat)
        if like is None
        else trees.map_with_path(lambda p, leaf: as_leaf(flat.get(p), leaf), like)
    )


def restore_argument(leaf: Any, ocp: Any) -> Any:
    """Orbax's order for one array: to the sharding of a committed leaf, else to host memory."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, jax.sharding.Sharding) and getattr(leaf, "committed", True):
        return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)
    return ocp.RestoreArgs(restore_type=np.ndarray)


def saved_form(leaf: Any) -> Any:
    """What stands in the file for a leaf: random keys as their uint32 words, Python numbers as arrays."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else np.asarray(leaf)


def as_leaf(value: Any, like: Any) -> Any:
    """A restored array in the type of `like`: device arrays stay, host arrays become uncommitted device arrays."""
    if value is None:
        return jnp.zeros(like.shape, like.dtype)
    if isinstance(like, jax.Array) and jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return value if isinstance(like, np.ndarray) else jnp.asarray(value)


def plain(item: Any) -> dict[str, Any]:
    """ConfigDict or dict -> dict."""
    return (
        json.loads(item.to_json_best_effort()) if isinstance(item, ml_collections.ConfigDict) else dict(item)
    )


def read_text(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
    file = folder / f"{name}.json"
    return json_values.loads(file.read_text()) if file.exists() else None


def write_manifest(folder: pathlib.Path) -> None:
    """Size and CRC-32 of every file, all forced to disk first."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    for file in files:
        sync(file)
    content = {str(f.relative_to(folder)): [f.stat().st_size, crc(f)] for f in files}
    (folder / MANIFEST).write_text(json.dumps({"version": 1, "files": content}, indent=1))
    sync(folder / MANIFEST)


def publish(half: pathlib.Path, final: pathlib.Path) -> None:
    """Gives a complete folder its name; one of that name is replaced."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(half, final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def prune(directory: pathlib.Path, keep: int) -> None:
    """Removes the oldest complete steps beyond `keep` and what a killed writer left."""
    for number in steps(directory)[: -max(1, keep)]:
        shutil.rmtree(directory / f"{number:08d}", ignore_errors=True)
    for left in directory.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def crc(file: pathlib.Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def barrier(name: str) -> None:
    """All processes wait for each other; nothing to do in one."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"ar1_jax checkpoint {name}")
