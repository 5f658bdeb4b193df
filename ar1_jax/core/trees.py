"""Trees of arrays by path: 'vlm/layers/q_proj/kernel' -> leaf; masks and choices from tables of patterns.

A pattern is a regular expression that must match the whole path; in a table the first match wins. Used alike for
sharding, freezing, weight decay, LoRA and checkpoints, so that no module carries annotations."""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

SEPARATOR = "/"


def path_string(path: Sequence[Any]) -> str:
    """JAX key path -> 'a/0/b': dict keys, sequence indices and attribute names alike."""
    return SEPARATOR.join(
        str(next(getattr(k, a) for a in ("key", "idx", "name") if hasattr(k, a))) for k in path
    )


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Tree -> {path: leaf} in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return {path_string(path): leaf for path, leaf in leaves}


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dicts; the inverse of flatten for trees made of dicts."""
    out: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(SEPARATOR)
        node = out
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return out


def unflatten(like: Any, flat: dict[str, Any]) -> Any:
    """The leaves of `flat` in the structure of `like`, whose paths must be the same (else KeyError)."""
    return map_with_path(lambda path, _: flat[path], like)


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """function(path, leaf, *leaves of the rest) over trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def matches(pattern: str, path: str) -> bool:
    """True where the regular expression matches the whole path."""
    return re.fullmatch(pattern, path) is not None


def first_match(path: str, table: Iterable[tuple[str, Any]], default: Any = None) -> Any:
    """The value beside the first pattern that matches `path`."""
    return next((value for pattern, value in table if matches(pattern, path)), default)


def mask(tree: Any, patterns: Iterable[str]) -> Any:
    """Tree of bool: True where any pattern matches the path."""
    patterns = tuple(patterns)
    return map_with_path(lambda path, _: any(matches(p, path) for p in patterns), tree)


def split(tree: Any, patterns: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tree of dicts -> (what matches, the rest), both nested dicts; `merge` puts them together again."""
    patterns = tuple(patterns)
    flat = flatten(tree)
    chosen = {path: leaf for path, leaf in flat.items() if any(matches(p, path) for p in patterns)}
    return nest(chosen), nest({path: leaf for path, leaf in flat.items() if path not in chosen})


def merge(*parts: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts with disjoint paths -> one; ValueError names paths that stand in two of them."""
    out: dict[str, Any] = {}
    for part in parts:
        flat = flatten(part)
        if twice := sorted(out.keys() & flat.keys()):
            raise ValueError(f"paths in more than one tree: {', '.join(twice)}")
        out |= flat
    return nest(out)


def count(tree: Any) -> int:
    """Number of array elements; abstract leaves count too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays, abstract leaves too."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def checksum(tree: Any) -> str:
    """CRC-32 of all arrays' bytes in the tree's order, as 8 hexadecimal digits."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), value)
    return f"{value:08x}"


def describe(leaf: Any) -> str:
    """'float32[2, 3]'."""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def differences(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """{path: leaf} twice -> one line for each path that is missing, unknown, or of another shape or dtype."""
    lines = [f"{p}: missing, expected {describe(expected[p])}" for p in expected if p not in got]
    lines += [f"{p}: unknown, got {describe(got[p])}" for p in got if p not in expected]
    for path in (p for p in expected if p in got):
        if describe(got[path]) != describe(expected[path]):
            lines.append(f"{path}: got {describe(got[path])}, expected {describe(expected[path])}")
    return lines
