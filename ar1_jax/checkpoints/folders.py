"""New folders, whole or not at all: written as a hidden sibling and renamed when complete and on disk."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors


def problems(target: pathlib.Path, needed: int = 0, source: pathlib.Path | None = None) -> list[str]:
    """Why `needed` bytes cannot become the new folder `target`, one line each; source: a folder to stay out of."""
    target, found = pathlib.Path(target).absolute(), []
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        found.append(f"{target}: exists and is not empty; name a new folder")
    if source is not None and pathlib.Path(source).resolve() in [target.resolve(), *target.resolve().parents]:
        found.append(f"{target}: lies in the source {source}; name a folder beside it")
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        found.append(f"{target}: cannot be written ({above} is no folder that may be written to)")
    elif (free := shutil.disk_usage(above).free) < needed:
        found.append(f"{target}: the disk is too full: {needed:,} bytes are needed, {free:,} are free")
    return found


@contextlib.contextmanager
def new(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill that becomes `target` where the block ends well; else nothing remains. Call it in every process.

    CheckpointError where the target is not empty or writing fails (OSError, and what orbax makes of one)."""
    target, first = pathlib.Path(target).absolute(), jax.process_index() == 0
    errors.raise_all(problems(target), "target", errors.CheckpointError)
    owner = "all" if jax.process_count() > 1 else os.getpid()
    staging = target.with_name(f".{target.name}.writing-{owner}")
    try:
        if first:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        runs.barrier("made")
        yield staging
        runs.barrier("filled")
        if first:
            publish(staging, target)
        runs.barrier("published")
    except OSError as error:
        raise errors.CheckpointError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        if first:
            shutil.rmtree(staging, ignore_errors=True)


def publish(staging: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a filled folder its name, once it is on disk; the target is empty or absent."""
    for path in [*staging.rglob("*"), staging]:
        sync(path)
    if target.exists():
        target.rmdir()
    staging.rename(target)
    sync(target.parent)


def sync(path: pathlib.Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
