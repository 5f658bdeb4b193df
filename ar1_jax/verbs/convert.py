"""Converts checkpoint folders: Hugging Face to orbax and back bit for bit, between families, parts and dtypes.

Everything is checked first and reported together; the source is only read; the target is written whole or not at all.
Prints what became what, how long it took and the licences of code and weights.
"""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable

import jax
import numpy as np

from ar1_jax.checkpoints import (
    converted,
    folders,
    huggingface,
    layouts,
    names,
    orbax_leaves,
    tensor_files,
)
from ar1_jax.core import errors, sharding, trees
from ar1_jax.policy import loading, sources

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be written. tensors: (name, dtype code, shape) in the order of the state_dict; headers, index: the
    weight files; kept: is that the source's own layout?; bare: names without `vlm.`; files: everything else."""

    family: str
    tensors: list[tuple[str, str, tuple[int, ...]]]
    headers: dict[str, tensor_files.Header]
    index: str
    kept: bool
    bare: bool
    files: layouts.Files


def run(config) -> int:
    """Converts; returns the exit code."""
    start = time.monotonic()
    source, target = prepare(config)
    with folders.new(pathlib.Path(config.target)) as staging:
        if jax.process_index() == 0:
            copy(target.files, staging)
        (to_orbax if config.format == "orbax" else to_huggingface)(config, source, target, staging)
    if jax.process_index() == 0:
        report(config, source, target, time.monotonic() - start)
    return errors.DONE


def prepare(config) -> tuple[sources.Source, Target]:
    """Reads the source and plans the target; one CheckpointError with everything that stands in the way."""
    errors.one_of(config.format, ("orbax", "huggingface"), "config.format")
    if config.dtype:
        errors.one_of(config.dtype, DTYPES, "config.dtype")
    missing = [f"config.{key} is empty; name a folder" for key in ("source", "target") if not config[key]]
    errors.raise_all(missing, "convert", errors.ConfigError)
    tokenizer = pathlib.Path(config.tokenizer) if config.tokenizer else None
    stacked = config.format == "orbax" and not config.dtype
    source, problems = sources.open_folder(config.source, tokenizer, stacked)
    target = None
    if source is not None:
        problems = layouts.refuse_change(source.family, config.layout)
        target = None if problems else plan(config, source)
    needed = 0 if target is None else huggingface.num_bytes(target.headers)
    inside = None if source is None else source.folder
    problems += folders.problems(pathlib.Path(config.target), needed, inside)
    errors.raise_all(problems, f"convert {config.source}", errors.CheckpointError)
    return source, target


def plan(config, source: sources.Source) -> Target:
    """The files of the target: the source's weight layout where tensors keep names and dtypes, else a new one."""
    only_vlm = config.layout == "vlm" and not source.bare
    tensors = described(source, only_vlm, DTYPES.get(config.dtype))
    headers, index = source.headers, source.index
    old = {} if headers is None else {name: e for h in headers.values() for name, e in h.entries.items()}
    kept = {name: (e.dtype, e.shape) for name, e in old.items()} == {n: (d, s) for n, d, s in tensors}
    if not kept:
        headers = tensor_files.plan(tensors, config.shard_bytes)
        count = sum(int(np.prod(shape)) for name, _, shape in tensors if not names.BUFFERS.fullmatch(name))
        index = tensor_files.index(headers, count) if len(headers) > 1 else ""
    family = layouts.LAYOUTS.get(config.layout, source.family)
    return Target(
        family, tensors, headers, index, kept, source.bare or only_vlm, changed_files(config, source)
    )


def described(source: sources.Source, only_vlm: bool, code: str | None) -> list[tuple]:
    """(name, dtype code, shape) of every tensor of the target; buffers keep their dtype."""
    wanted = loading.wanted(source.model, source.bare)
    if source.headers is None:
        stored = {name: (code or "F32", shape) for name, (_, _, shape) in wanted.items()}
        stored |= {name: (tensor_files.CODES[x.dtype], x.shape) for name, x in source.buffers.items()}
    else:
        entries = [(name, e) for h in source.headers.values() for name, e in h.entries.items()]
        stored = {name: (code if code and name in wanted else e.dtype, e.shape) for name, e in entries}
    order = [
        name
        for name in names.insert_buffers(list(wanted), [n for n in stored if n not in wanted])
        if name in stored
    ]
    if only_vlm:
        return [(name.removeprefix("vlm."), *stored[name]) for name in order if name.startswith("vlm.")]
    return [(name, *stored[name]) for name in order]


def changed_files(config, source: sources.Source) -> layouts.Files:
    """Everything but weights, as config.layout wants it; what was trained has a head of its own."""
    if source.headers is None and layouts.tied(source.vlm):
        vlm = layouts.untied(source.vlm)
        files = {**source.files, f"{source.place}/config.json": layouts.dumps(vlm)}
        source = dataclasses.replace(source, vlm=vlm, files=files)
    if not config.layout or (config.layout == "vlm" and source.bare):
        return source.files
    text = source.vocabulary.tokenizer.to_str()
    if config.layout == "vlm":
        return layouts.as_vlm(source.files, source.vlm, text, source.place, source.vocabulary.ids.size)
    if config.layout == "training":
        return layouts.as_training(source.files, source.raw, text, source.place, config.vlm_name_or_path)
    to = layouts.LAYOUTS[config.layout]
    return layouts.as_release(source.files, source.raw, to, source.place, config.vlm_name_or_path)


def copy(files: layouts.Files, staging: pathlib.Path) -> None:
    """Writes contents and copies files."""
    for name, content in files.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (staging / name).write_bytes(content)
        else:
            shutil.copyfile(content, staging / name)


def part(source: sources.Source, target: Target):
    """Shapes of the parameters that the target holds."""
    expert = {} if not target.bare else {"expert": None}
    return loading.shapes(dataclasses.replace(source.model, **expert))


def to_orbax(config, source: sources.Source, target: Target, staging: pathlib.Path) -> None:
    """Writes our form leaf by leaf, cut as config.mesh says; each process reads what its devices hold."""
    tree, mesh = part(source, target), dict(config.mesh)
    placed = {}
    if jax.process_count() > 1 or any(size != 1 for size in mesh.values()):
        placed = trees.flatten(loading.shardings(tree, sharding.make_mesh(**mesh)))
    stored = {name: x for name, x in source.buffers.items() if not target.bare}
    with source.leaves(tree, kept_or(config, source)) as leaves:
        later = {
            path: orbax_leaves.Later(
                leaf.shape,
                leaves.dtypes[path],
                functools.partial(leaves.read, path, leaf.shape, placed.get(path)),
                path in placed,
            )
            for path, leaf in trees.flatten(tree).items()
        }
        converted.write(staging, later, stored, target.headers, target.index, target.bare)


def to_huggingface(config, source: sources.Source, target: Target, staging: pathlib.Path) -> None:
    """Writes the weight files: tensor by tensor from files of the kind, else leaf by leaf; each process its own."""
    mine = dict(list(target.headers.items())[jax.process_index() :: jax.process_count()])
    index = target.index if jax.process_index() == 0 else ""
    if source.weights:
        with Blocks(config, source, target) as blocks:
            huggingface.write_weights(staging, mine, index, blocks)
        return
    tree = part(source, target)
    wanted = loading.wanted(
        dataclasses.replace(source.model, **({} if "expert" in tree else {"expert": None})), target.bare
    )
    with source.leaves(tree, kept_or(config, source)) as leaves:
        huggingface.write_leaves(staging, mine, index, wanted, tree, leaves, source.buffers)


def kept_or(config, source: sources.Source) -> str | None:
    """The parameters' dtype by name, None to keep what is stored; a run's are float32."""
    return config.dtype or ("float32" if source.headers is None else None)


class Blocks:
    """blocks(name) of the target's tensors, streamed from the source's files."""

    def __init__(self, config, source: sources.Source, target: Target):
        name = kept_or(config, source)
        self.dtype = tensor_files.DTYPES[DTYPES[name]] if name else None
        self.prefix = "vlm." if target.bare and not source.bare else ""
        self.reader = source.weights.reader()

    def __enter__(self) -> Callable:
        return self

    def __exit__(self, *_):
        self.reader.close()

    def __call__(self, name: str):
        """Blocks of rows of one tensor in the target's dtype; buffers keep theirs."""
        change = self.dtype is not None and not names.BUFFERS.fullmatch(name)
        for block in self.reader.blocks(self.prefix + name):
            yield block.astype(self.dtype, copy=False) if change else block


def report(config, source: sources.Source, target: Target, seconds: float) -> None:
    """Says what was done, and the licences."""
    size = huggingface.num_bytes(target.headers)
    kinds = sorted({code for _, code, _ in target.tensors})
    count = sum(int(np.prod(shape)) for name, _, shape in target.tensors if not names.BUFFERS.fullmatch(name))
    layout = "the source's layout" if target.kept else "a new layout"
    print(f"{source.folder} ({source.family}) -> {config.target} ({target.family}, {config.format})")
    print(f"{len(target.tensors):,} tensors, {count:,} parameters, {', '.join(kinds)}, {size:,} bytes in "
          f"{len(target.headers)} file(s), {layout}, {seconds:.1f} s")  # fmt: skip
    print("\n".join(layouts.licences(target.family)))
