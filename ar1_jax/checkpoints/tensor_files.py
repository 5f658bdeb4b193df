"""safetensors files at the level of bytes: headers kept as they stand, rows read by offset, tensors written one by one.

A file is 8 bytes of header length (little-endian), a JSON header {name: {dtype, shape, data_offsets}} padded with
spaces, then the raw data (inference.md section 1.4). Headers are checked by the safetensors library; reading does not
map the file, so that memory holds only what was asked for. Not here: names and folders (huggingface.py).
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import struct
from collections.abc import Callable, Iterable, Sequence

import ml_dtypes
import numpy as np
import safetensors

from ar1_jax.core import errors

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
CODES = {dtype: code for code, dtype in DTYPES.items()}
BLOCK_ROWS = 256  # of a matrix at a time: transposing stays within the processor's cache
SHARD_BYTES = 5_000_000_000


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file: safetensors' dtype code, shape, and its bytes counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Header:
    """A file's header: its JSON text as it stands (padding included) and the entries it describes, by name."""

    text: str
    entries: dict[str, Entry]

    @property
    def start(self) -> int:
        return 8 + len(self.text.encode())

    @property
    def size(self) -> int:
        return self.start + max((entry.end for entry in self.entries.values()), default=0)


def parse(text: str) -> Header:
    """Header of its JSON text; ValueError or KeyError where it is none."""
    entries = {
        name: Entry(value["dtype"], tuple(value["shape"]), *value["data_offsets"])
        for name, value in json.loads(text).items()
        if name != "__metadata__"
    }
    return Header(text, entries)


def read_header(path: pathlib.Path) -> Header:
    """Header of a file; CheckpointError where the file is torn or corrupt, FileNotFoundError where it is absent."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # the library compares offsets, shapes and the size of the file
        with open(path, "rb") as stream:
            return parse(stream.read(struct.unpack("<Q", stream.read(8))[0]).decode())
    except FileNotFoundError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(f"torn or corrupt ({error})") from error


def make_header(tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> Header:
    """Header for (name, dtype code, shape) in that order, wider dtypes first so that all data lie aligned."""
    width = lambda code: DTYPES[code].itemsize
    content, at = {"__metadata__": {"format": "pt"}}, 0
    for name, code, shape in sorted(tensors, key=lambda t: -width(t[1])):
        end = at + math.prod(shape) * width(code)
        content[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(content, separators=(",", ":"))
    return parse(text + " " * (-len(text.encode()) % 8))


class Reader:
    """Rows of the tensors of several files. files: {path: Header}; close() or `with` lets go of them."""

    def __init__(self, files: dict[pathlib.Path, Header]):
        self.places = {name: (path, header) for path, header in files.items() for name in header.entries}
        self.streams = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        for stream in self.streams.values():
            stream.close()
        self.streams = {}

    def rows(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows first..last of the first axis (all of a scalar), in the stored dtype."""
        path, header = self.places[name]
        entry = header.entries[name]
        shape = entry.shape or (1,)
        last = shape[0] if last is None else last
        if path not in self.streams:
            self.streams[path] = open(path, "rb")
        dtype = DTYPES[entry.dtype]
        row = math.prod(shape[1:])
        stream = self.streams[path]
        stream.seek(header.start + entry.begin + first * row * dtype.itemsize)
        count = (last - first) * row * dtype.itemsize
        data = np.fromfile(stream, np.uint8, count)
        if len(data) != count:
            raise errors.CheckpointError(f"{path}: {name}: the file ends within it (torn while it was read)")
        return data.view(dtype).reshape((last - first, *shape[1:]) if entry.shape else ())

    def blocks(self, name: str) -> Iterable[np.ndarray]:
        """The whole tensor as a sequence of blocks of rows, each about 4 MB."""
        path, header = self.places[name]
        entry = header.entries[name]
        if not entry.shape:
            yield self.rows(name)
            return
        size = max(1, (entry.end - entry.begin) // max(entry.shape[0], 1))
        step = max(1, (1 << 22) // size)
        for first in range(0, entry.shape[0], step):
            yield self.rows(name, first, min(first + step, entry.shape[0]))


class Writer:
    """Files of known headers, filled tensor by tensor in any order. files: {path: Header}; use it with `with`.

    Leaving it well raises ValueError where a tensor was not written. OSError where a file cannot be."""

    def __init__(self, files: dict[pathlib.Path, Header]):
        self.places = {name: (path, header) for path, header in files.items() for name in header.entries}
        self.left, self.streams = set(self.places), {}
        with contextlib.ExitStack() as opened:
            for path, header in files.items():
                stream = self.streams[path] = opened.enter_context(open(path, "wb"))
                text = header.text.encode()
                stream.write(struct.pack("<Q", len(text)) + text)
                stream.truncate(header.size)
            self.opened = opened.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.opened.close()
        if kind is None and self.left:
            raise ValueError(f"tensors without data: {', '.join(sorted(self.left)[:10])}")

    def put(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        """A tensor's data in order and in the header's dtype; ValueError where blocks and header disagree."""
        path, header = self.places[name]
        entry, stream, written = header.entries[name], self.streams[path], 0
        stream.seek(header.start + entry.begin)
        for block in blocks:
            if CODES[block.dtype] != entry.dtype:
                raise ValueError(f"{name}: {block.dtype} given, {entry.dtype} announced")
            written += stream.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
        if written != entry.end - entry.begin:
            raise ValueError(f"{name}: {written} bytes given, {entry.end - entry.begin} announced")
        self.left.remove(name)


def write(path: pathlib.Path, header: Header, blocks: Callable[[str], Iterable[np.ndarray]]) -> None:
    """Writes a file tensor by tensor; blocks(name) yields a tensor's data in order, in the header's dtype.

    OSError where the file cannot be written, ValueError where blocks and header disagree."""
    with Writer({path: header}) as writer:
        for name, _ in sorted(header.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            writer.put(name, blocks(name))


def plan(tensors: Sequence[tuple[str, str, tuple[int, ...]]], limit: int = SHARD_BYTES) -> dict[str, Header]:
    """File name -> header: greedy in the given order, each file's data <= limit bytes (or one larger tensor)."""
    shards, used = [[]], 0
    for tensor in tensors:
        size = math.prod(tensor[2]) * DTYPES[tensor[1]].itemsize
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    if len(shards) == 1:
        return {"model.safetensors": make_header(shards[0])}
    name = f"model-{{:05d}}-of-{len(shards):05d}.safetensors"
    return {name.format(i + 1): make_header(shard) for i, shard in enumerate(shards)}


def index(files: dict[str, Header], parameters: int) -> str:
    """Text of model.safetensors.index.json for several files; parameters: elements without buffers."""
    entries = {
        name: (file, entry) for file, header in files.items() for name, entry in header.entries.items()
    }
    total = sum(entry.end - entry.begin for _, entry in entries.values())
    content = {
        "metadata": {"total_parameters": parameters, "total_size": total},
        "weight_map": {name: entries[name][0] for name in sorted(entries)},
    }
    return json.dumps(content, indent=2) + "\n"
