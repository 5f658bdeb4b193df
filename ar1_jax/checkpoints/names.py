"""One table for both ways: checkpoint tensor name <-> our parameter path and an invertible transform.

A row is (checkpoint name with {i} for the layer, our path, transform). Tensors of layered rows are stacked on a
leading axis of our leaf. Transforms: same, transpose ([out, in] <-> [in, out]), conv3d ([out, c, t, h, w] <->
[c·t·h·w, out]); the last two are the same bytes. Rows stand in the order of PyTorch's state_dict, which decides what
lies in which file. Source: inference.md section 1.3. Buffers of Alpamayo 1 (BUFFERS) carry no parameters.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

STRIP = 16  # rows that are transposed at once: their narrow columns stay in the cache (measured, twice as fast as 256)
HEAD, EMBEDDING = "vlm/lm_head/kernel", "vlm/model/language_model/embed_tokens/embedding"
BUFFERS = re.compile(r"action_space\.\w+|action_in_proj\.(sinus\.\d+|timestep_fourier_encoder)\.freqs")


class Row(NamedTuple):
    """One kind of tensor."""

    name: str
    path: str
    transform: str


def _linear(name: str, path: str, bias: bool = True) -> list[Row]:
    rows = [Row(f"{name}.weight", f"{path}/kernel", "transpose")]
    return rows + ([Row(f"{name}.bias", f"{path}/bias", "same")] if bias else [])


def _norm(name: str, path: str, bias: bool = True) -> list[Row]:
    rows = [Row(f"{name}.weight", f"{path}/weight", "same")]
    return rows + ([Row(f"{name}.bias", f"{path}/bias", "same")] if bias else [])


def _decoder(name: str, path: str) -> list[Row]:
    layer, ours = f"{name}.layers.{{i}}", f"{path}/layers"
    rows = []
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        rows += _linear(f"{layer}.{part}", f"{ours}/{part.replace('.', '/')}", bias=False)
    for norm in ("q_norm", "k_norm"):
        rows += _norm(f"{layer}.self_attn.{norm}", f"{ours}/self_attn/{norm}", bias=False)
    for part in ("gate_proj", "up_proj", "down_proj"):
        rows += _linear(f"{layer}.mlp.{part}", f"{ours}/mlp/{part}", bias=False)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        rows += _norm(f"{layer}.{norm}", f"{ours}/{norm}", bias=False)
    return rows + _norm(f"{name}.norm", f"{path}/norm", bias=False)


def _visual(name: str, path: str) -> list[Row]:
    rows = [
        Row(f"{name}.patch_embed.proj.weight", f"{path}/patch_embed/proj/kernel", "conv3d"),
        Row(f"{name}.patch_embed.proj.bias", f"{path}/patch_embed/proj/bias", "same"),
        Row(f"{name}.pos_embed.weight", f"{path}/pos_embed", "same"),
    ]
    block, ours = f"{name}.blocks.{{i}}", f"{path}/blocks"
    for norm in ("norm1", "norm2"):
        rows += _norm(f"{block}.{norm}", f"{ours}/{norm}")
    for part in ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"):
        rows += _linear(f"{block}.{part}", f"{ours}/{part.replace('.', '/')}")
    for merger in ("merger", "deepstack_merger_list"):
        theirs = f"{name}.{merger}" + (".{i}" if merger.endswith("list") else "")
        rows += _norm(f"{theirs}.norm", f"{path}/{merger}/norm")
        for part in ("linear_fc1", "linear_fc2"):
            rows += _linear(f"{theirs}.{part}", f"{path}/{merger}/{part}")
    return rows


def table(action_layers: int | None, bare: bool = False) -> tuple[Row, ...]:
    """All rows; action_layers: hidden layers of the expert's input projection, None for a model without expert.

    bare: names as a plain Qwen3-VL folder has them, without the prefix `vlm.`."""
    language = "vlm.model.language_model"
    rows = _visual("vlm.model.visual", "vlm/model/visual")
    rows.append(Row(f"{language}.embed_tokens.weight", EMBEDDING, "same"))
    rows += _decoder(language, "vlm/model/language_model")
    rows += _linear("vlm.lm_head", "vlm/lm_head", bias=False)
    if action_layers is not None:
        rows += _decoder("expert", "expert")
        trunk, ours = "action_in_proj.encoder.trunk.", "action_in_proj/encoder/trunk_"
        rows += _linear(f"{trunk}0", f"{ours}0")
        for i in range(2, 3 * action_layers, 3):
            rows += _norm(f"{trunk}{i}", f"{ours}{i}", bias=False) + _linear(
                f"{trunk}{i + 1}", f"{ours}{i + 1}"
            )
        rows += _norm("action_in_proj.norm", "action_in_proj/norm")
        rows += _linear("action_out_proj", "action_out_proj")
    return tuple(row._replace(name=row.name.removeprefix("vlm.")) for row in rows) if bare else tuple(rows)


def in_order(rows: tuple[Row, ...], depth) -> Iterator[tuple[str, Row, int | None]]:
    """(checkpoint name, row, layer or None) in the order of the state_dict; depth(row): layers of a layered row."""
    for stem, group in itertools.groupby(rows, key=lambda row: row.name.partition("{i}")[0]):
        group = list(group)
        if group[0].name == stem:
            yield stem, group[0], None
        else:
            yield from ((row.name.format(i=i), row, i) for i in range(depth(group[0])) for row in group)


def insert_buffers(names: list[str], buffers: list[str]) -> list[str]:
    """Tensor names of a model with Alpamayo 1's buffers where its state_dict has them: before the action heads."""
    at = next((i for i, name in enumerate(names) if name.startswith("action_in_proj")), len(names))
    return [*names[:at], *sorted(buffers, key=lambda name: not name.startswith("action_space")), *names[at:]]


def their_shape(ours: tuple[int, ...], transform: str, conv: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Shape of the checkpoint's tensor for one layer of ours; conv: (channels, time, rows, columns) of a patch."""
    if transform == "transpose":
        return ours[::-1]
    return (ours[1], *conv) if transform == "conv3d" else ours


def their_blocks(x: np.ndarray, transform: str, rows: int) -> Iterator[np.ndarray]:
    """One layer of our array as the bytes of the checkpoint's tensor, in blocks of so many of its rows."""
    if x.ndim == 0:
        yield x
        return
    if transform == "same":
        for first in range(0, len(x), rows):
            yield x[first : first + rows]
        return
    source = words(x)
    for first in range(0, x.shape[1], rows):
        part = source[:, first : first + rows]
        block = np.empty(part.shape[::-1], part.dtype)
        transpose(block, part)
        yield block.view(x.dtype)


def put_rows(
    target: np.ndarray, block: np.ndarray, transform: str, first: int, columns: tuple[slice, ...]
) -> None:
    """Rows of the checkpoint's tensor into our array: block [rows, ...] lands at rows (or columns) first, first + 1...

    columns: what of the block's other axes target holds, as indices of our array without the rows' own axis."""
    if transform == "same":
        target[first : first + len(block)] = block[(slice(None), *columns)]
    else:
        transpose(target[:, first : first + len(block)], block.reshape(len(block), -1)[:, columns[0]])


def transpose(target: np.ndarray, source: np.ndarray) -> None:
    """target[j, i] = source[i, j] for matrices, strip by strip."""
    for first in range(0, len(source), STRIP):
        target[:, first : first + STRIP] = source[first : first + STRIP].T


def words(x: np.ndarray) -> np.ndarray:
    """bfloat16 and float16 as the 16-bit words they are, which NumPy moves faster; anything else as it is."""
    return x.view(np.uint16) if x.dtype.itemsize == 2 else x
