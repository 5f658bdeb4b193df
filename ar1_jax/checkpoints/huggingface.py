"""Hugging Face folders of safetensors: read into our parameter tree and written back, by the table in names.py.

Everything is checked before a tensor is read: missing, unknown and misshapen tensors, strange dtypes, absent or torn
files are one CheckpointError that lists them all. Reading takes only the rows a shard needs and holds one leaf's shard
besides what it has made; writing goes tensor by tensor into a sibling that is renamed when it is whole.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ar1_jax.checkpoints import folders, names, tensor_files
from ar1_jax.core import errors, trees

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

Wanted = dict[str, tuple[names.Row, int | None, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a folder: a header for each readable file by name, and the index as it stands ("" for a single
    file). lost: tensors that the index places in files which cannot be read."""

    folder: pathlib.Path
    headers: dict[str, tensor_files.Header]
    index: str = ""
    lost: frozenset[str] = frozenset()

    @property
    def entries(self) -> dict[str, tensor_files.Entry]:
        return {name: entry for header in self.headers.values() for name, entry in header.entries.items()}

    def reader(self) -> tensor_files.Reader:
        """Rows by tensor name; use it with `with`."""
        return tensor_files.Reader({self.folder / file: header for file, header in self.headers.items()})


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


def inspect(folder: pathlib.Path) -> tuple[Weights, list[str]]:
    """The readable headers of a folder and what is wrong with its files, one line each."""
    folder = pathlib.Path(folder)
    weight_map, text = None, ""
    if (folder / INDEX).is_file():
        try:
            weight_map = read_json(folder / INDEX).get("weight_map")
        except errors.CheckpointError as error:
            return Weights(folder, {}), [str(error)]
        if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
            return Weights(folder, {}), [f"{INDEX}: key weight_map (tensor name -> file name) is missing"]
        text = (folder / INDEX).read_text(encoding="utf-8")
    elif not (folder / SINGLE).is_file():
        return Weights(folder, {}), [_no_weights(folder)]
    headers, problems = {}, []
    for file in sorted(set(weight_map.values())) if weight_map else [SINGLE]:
        try:
            if pathlib.PurePath(file).name != file:
                raise errors.CheckpointError(f"named by {INDEX}, but it is no name of a file of this folder")
            headers[file] = tensor_files.read_header(folder / file)
        except FileNotFoundError:
            problems.append(f"{file}: named by {INDEX} but absent")
        except errors.CheckpointError as error:
            problems.append(f"{file}: {error}")
    weight_map = weight_map or {}
    where = [(name, file) for file, header in headers.items() for name in header.entries]
    found, lost = dict(where), frozenset(name for name, file in weight_map.items() if file not in headers)
    problems += [f"{name}: {INDEX} says {file}, found in {found.get(name, 'no file')}"
                 for name, file in weight_map.items() if name not in lost and found.get(name) != file]  # fmt: skip
    problems += [f"{name}: in {file}, which {INDEX} does not say" for name, file in where
                 if weight_map and weight_map.get(name) != file]  # fmt: skip
    return Weights(folder, headers, text, lost), problems


def _no_weights(folder: pathlib.Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED)
    if not pickled:
        return f"neither {SINGLE} nor {INDEX} is there"
    return (f"pickled weights ({', '.join(pickled)}) are refused because reading them can run code; save them as "
            "safetensors first (in PyTorch: model.save_pretrained(folder, safe_serialization=True))")  # fmt: skip


def weights(folder: pathlib.Path) -> Weights:
    """`inspect`, with everything that is wrong raised as one CheckpointError."""
    found, problems = inspect(folder)
    errors.raise_all(problems, str(folder), errors.CheckpointError)
    return found


def tensors(shapes, conv, action_layers, bare: bool = False) -> Wanted:
    """Checkpoint name -> (row, layer or None, the checkpoint's shape) for a model's parameter shapes, in the order of
    PyTorch's state_dict. bare: names without the prefix `vlm.`, as a plain Qwen3-VL folder has them."""
    leaves = trees.flatten(shapes)
    depth = lambda row: leaves[row.path].shape[0]
    return {
        name: (
            row,
            layer,
            names.their_shape(leaves[row.path].shape[layer is not None :], row.transform, conv),
        )
        for name, row, layer in names.in_order(names.table(action_layers, bare), depth)
    }


def check(found: Weights, wanted: Wanted, keep_dtypes: bool = False, tied: bool = False) -> list[str]:
    """What is wrong with the tensors of a folder for a model, one line each: missing, unknown, shapes, dtypes.

    keep_dtypes: the layers of a stacked leaf must agree in dtype (needed where dtypes are kept). tied: the head is the
    embedding transposed, so its tensor may be absent (as `save_pretrained` leaves it out) or the same."""
    entries, kinds = found.entries, {}
    need = [name for name, (row, _, _) in wanted.items() if not (tied and row.path == names.HEAD)]
    problems = [f"{name}: missing" for name in need if name not in entries and name not in found.lost]
    for name, entry in entries.items():
        if entry.dtype not in tensor_files.DTYPES:
            problems.append(
                f"{name}: dtype {entry.dtype}, expected one of {', '.join(sorted(tensor_files.DTYPES))}"
            )
        if name not in wanted:
            problems += [] if names.BUFFERS.fullmatch(name) else [f"{name}: unknown tensor"]
            continue
        row, _, shape = wanted[name]
        if entry.shape != shape:
            problems.append(f"{name}: shape {list(entry.shape)}, expected {list(shape)}")
        first = kinds.setdefault(row.path, (name, entry.dtype))
        if keep_dtypes and first[1] != entry.dtype:
            problems.append(f"{name}: dtype {entry.dtype}, but {first[0]} has {first[1]}")
    return problems or (_untied(found, wanted) if tied else [])


def _untied(found: Weights, wanted: Wanted) -> list[str]:
    """A line where a folder whose head is tied to the embedding holds another one."""
    named = {row.path: name for name, (row, _, _) in wanted.items()}
    head, embedding = named[names.HEAD], named[names.EMBEDDING]
    if head not in found.entries or embedding not in found.entries:
        return []
    with found.reader() as reader:
        pairs = zip(reader.blocks(head), reader.blocks(embedding), strict=True)
        if all(a.dtype == b.dtype and np.array_equal(names.words(a), names.words(b)) for a, b in pairs):
            return []
    return [f"{head}: differs from {embedding}, although tie_word_embeddings is true"]


def read(
    found: Weights, wanted: Wanted, shapes, dtype=None, shardings=None, finish: Callable = lambda x: x,
    checked: bool = False, tied: bool = False,
):  # fmt: skip
    """The parameters of a folder as a tree like `shapes` (of ShapeDtypeStruct).

    dtype: of all leaves, None as stored. shardings: a tree of Shardings; then jax.Arrays of which this process reads
    and places its own parts only. Else NumPy arrays, each handed through `finish` as soon as it is read. checked:
    `check` was called before (or the model is a part of the checkpoint's). tied: as `check` has it.
    Raises CheckpointError listing every missing, unknown, misshapen or strange tensor.
    """
    problems = [] if checked else check(found, wanted, keep_dtypes=dtype is None, tied=tied)
    errors.raise_all(problems, str(found.folder), errors.CheckpointError)
    with Leaves(found, wanted, dtype) as leaves:
        return read_all(leaves, shapes, shardings, finish)


def read_all(leaves, shapes, shardings, finish):
    """All of `leaves` (`Leaves` here or of `converted`) as a tree like `shapes`: NumPy arrays, each handed through
    `finish` as soon as it is read, or jax.Arrays placed by `shardings` (a tree)."""
    if shardings is None:
        return trees.map_with_path(lambda path, shape: finish(leaves.read(path, shape.shape)), shapes)
    place = lambda path, shape, where: leaves.read(path, shape.shape, where)
    return trees.map_with_path(place, shapes, shardings)


class Leaves:
    """The parameters of a folder leaf by leaf, by our path; use it with `with`. dtype: of all, None as stored.

    A head without a tensor of its own is the embedding transposed."""

    def __init__(self, found: Weights, wanted: Wanted, dtype=None):
        self.reader, self.parts = found.reader(), {}
        for name, (row, layer, _) in wanted.items():
            if row.path == names.HEAD and name not in found.entries:
                continue
            self.parts.setdefault(row.path, []).append((name, row.transform, layer))
        if names.HEAD not in self.parts and names.EMBEDDING in self.parts:
            self.parts[names.HEAD] = [(self.parts[names.EMBEDDING][0][0], "transpose", None)]
        stored = {path: found.entries[parts[0][0]].dtype for path, parts in self.parts.items()}
        self.dtypes = {
            path: tensor_files.DTYPES[code] if dtype is None else np.dtype(dtype)
            for path, code in stored.items()
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()

    def read(self, path: str, shape: tuple[int, ...], sharding=None, out: np.ndarray | None = None):
        """A NumPy array, `out` where it is given; with a sharding a jax.Array of which only our parts are read."""
        if sharding is not None:
            make = lambda index: self._fill(path, index, np.empty([len(r) for r in index], self.dtypes[path]))
            return _place(shape, sharding, make)
        out = np.empty(shape, self.dtypes[path]) if out is None else out
        return self._fill(path, [range(n) for n in shape], out)

    def _fill(self, path: str, index: list[range], out: np.ndarray) -> np.ndarray:
        """Part `index` (a range for each axis) of a leaf, into `out`."""
        for name, transform, layer in self.parts[path]:
            if layer is None:
                target, inner = out, index
            elif layer in index[0]:
                target, inner = out[layer - index[0].start], index[1:]
            else:
                continue
            rows = inner[0] if transform == "same" else inner[1]
            others = inner[1:] if transform == "same" else inner[:1]
            columns = tuple(slice(r.start, r.stop) for r in others)
            for first in range(rows.start, rows.stop, tensor_files.BLOCK_ROWS):
                block = self.reader.rows(name, first, min(first + tensor_files.BLOCK_ROWS, rows.stop))
                same = block.dtype == out.dtype
                pair = (names.words(target), names.words(block)) if same else (target, block)
                names.put_rows(*pair, transform, first - rows.start, columns)
        return out


def _place(shape, sharding, make) -> jax.Array:
    """A global array whose local parts are made one after the other, each once, and put on their devices."""
    devices: dict[tuple, list] = {}
    for device, index in sharding.addressable_devices_indices_map(tuple(shape)).items():
        ranges = tuple(range(*s.indices(n)) for s, n in zip(index, shape, strict=True))
        devices.setdefault(ranges, []).append(device)
    parts = []
    for ranges, where in devices.items():
        host = make(list(ranges))
        parts += jax.block_until_ready([jax.device_put(host, device) for device in where])
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, parts)


def buffers(found: Weights) -> dict[str, np.ndarray]:
    """The constants that Alpamayo 1 stores beside its parameters, as stored, by checkpoint name; often none."""
    with found.reader() as reader:
        return {name: reader.rows(name) for name in found.entries if names.BUFFERS.fullmatch(name)}


def blocks(params, wanted: Wanted, others: dict[str, np.ndarray], dtype=None) -> Callable[[str], Iterable]:
    """name -> the tensor's blocks of rows in the checkpoint's layout, from a parameter tree and `others` by name.

    dtype: of the parameters, None as they are. Leaves may be NumPy arrays or jax.Arrays that this process holds."""
    leaves = trees.flatten(params)

    def of(name: str):
        if name in others:
            yield np.asarray(others[name])
            return
        row, layer, _ = wanted[name]
        for block in names.their_blocks(
            _host(leaves[row.path], layer), row.transform, tensor_files.BLOCK_ROWS
        ):
            yield block if dtype is None else block.astype(dtype, copy=False)

    return of


def _host(leaf: Any, layer: int | None) -> np.ndarray:
    """One layer of a leaf in this process's memory; a jax.Array gives up no more than that layer."""
    if isinstance(leaf, jax.Array) and layer is not None and not _is_plain(leaf):
        leaf, layer = leaf[layer], None
    return np.asarray(leaf) if layer is None else np.asarray(leaf)[layer]


def _is_plain(leaf: jax.Array) -> bool:
    return len(leaf.sharding.device_set) == 1 and next(iter(leaf.sharding.device_set)).platform == "cpu"


def described(params, wanted: Wanted, others: dict[str, np.ndarray], dtype=None) -> list[tuple]:
    """(name, dtype code, shape) of every tensor of a folder to be, in the order of the state_dict."""
    leaves = trees.flatten(params)
    kind = lambda x: tensor_files.CODES[np.dtype(x.dtype if dtype is None else dtype)]
    made = {name: (name, kind(leaves[row.path]), shape) for name, (row, _, shape) in wanted.items()}
    made |= {name: (name, tensor_files.CODES[x.dtype], x.shape) for name, x in others.items()}
    return [made[name] for name in names.insert_buffers(list(wanted), list(others))]


def write_weights(
    folder: pathlib.Path, layout: dict[str, tensor_files.Header], index: str, blocks: Callable
) -> None:
    """The weight files of a folder by their headers, and the index ("" for none). OSError as it comes."""
    for file, header in layout.items():
        tensor_files.write(folder / file, header, blocks)
    if index:
        (folder / INDEX).write_text(index, encoding="utf-8")


def write(
    folder: pathlib.Path, params, config: dict, extra_files: dict[str, str], conv, action_layers
) -> None:
    """Writes params (dtypes as they are), config.json and extra text files (relative name -> content) as a new folder.

    CheckpointError where the target exists and is not empty or cannot be written; then nothing remains.
    """
    wanted = tensors(params, conv, action_layers)
    layout = tensor_files.plan(described(params, wanted, {}))
    index = tensor_files.index(layout, trees.count(params)) if len(layout) > 1 else ""
    texts = {"config.json": json.dumps(config, indent=2) + "\n", **extra_files}
    with folders.new(folder) as staging:
        write_weights(staging, layout, index, blocks(params, wanted, {}))
        for name, text in texts.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(text, encoding="utf-8")


def write_leaves(
    folder: pathlib.Path, layout: dict[str, tensor_files.Header], index: str, wanted: Wanted, shapes, leaves,
    others: dict[str, np.ndarray],
) -> None:  # fmt: skip
    """The weight files of a folder from parameters that are read leaf by leaf, one in memory at a time.

    shapes: the parameter tree; leaves.read(path, shape) -> NumPy array in the layout's dtype; others: the tensors
    that are no parameters, by name. Leaves without a tensor in `layout` are not read. OSError as it comes."""
    places = [folder / file for file in layout]
    with tensor_files.Writer(dict(zip(places, layout.values(), strict=True))) as writer:
        parts: dict[str, list] = {}
        for name in writer.places:
            if name in others:
                writer.put(name, [others[name]])
            else:
                row, layer, _ = wanted[name]
                parts.setdefault(row.path, []).append((name, row.transform, layer))
        for path, shape in trees.flatten(shapes).items():
            if path in parts:
                _put_leaf(writer, leaves.read(path, shape.shape), parts[path])
    if index:
        (folder / INDEX).write_text(index, encoding="utf-8")


def _put_leaf(writer: tensor_files.Writer, leaf: np.ndarray, parts: list) -> None:
    """The tensors (name, transform, layer) that a leaf is made of."""
    for name, transform, layer in parts:
        x = leaf if layer is None else leaf[layer]
        writer.put(name, names.their_blocks(x, transform, tensor_files.BLOCK_ROWS))


def num_bytes(layout: dict[str, tensor_files.Header]) -> int:
    """Size of the weight files of a layout."""
    return sum(header.size for header in layout.values())


def count(wanted: Wanted) -> int:
    """Parameters of a model, buffers left out."""
    return sum(math.prod(shape) for _, _, shape in wanted.values())
