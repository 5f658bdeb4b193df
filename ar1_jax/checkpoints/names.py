"""One table for both ways: checkpoint tensor name <-> our parameter path and an invertible transform.

A row is (checkpoint name with {i} for the layer, our path, transform). Tensors of layered rows are stacked on a
leading axis of our leaf. Transforms: same, transpose ([out, in] <-> [in, out]), conv3d ([out, c, t, h, w] <->
[c·t·h·w, out]). Source: inference.md section 1.3. Buffers of Alpamayo 1 (BUFFERS) carry no parameters.
"""

import re
from typing import NamedTuple

import numpy as np

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
    for norm in ("input_layernorm", "post_attention_layernorm"):
        rows += _norm(f"{layer}.{norm}", f"{ours}/{norm}", bias=False)
    for norm in ("q_norm", "k_norm"):
        rows += _norm(f"{layer}.self_attn.{norm}", f"{ours}/self_attn/{norm}", bias=False)
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        rows += _linear(f"{layer}.self_attn.{part}", f"{ours}/self_attn/{part}", bias=False)
    for part in ("gate_proj", "up_proj", "down_proj"):
        rows += _linear(f"{layer}.mlp.{part}", f"{ours}/mlp/{part}", bias=False)
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


def table(action_layers: int | None) -> tuple[Row, ...]:
    """All rows; action_layers: hidden layers of the expert's input projection, None for a model without expert."""
    rows = _visual("vlm.model.visual", "vlm/model/visual")
    rows.append(
        Row(
            "vlm.model.language_model.embed_tokens.weight",
            "vlm/model/language_model/embed_tokens/embedding",
            "same",
        )
    )
    rows += _decoder("vlm.model.language_model", "vlm/model/language_model")
    rows += _linear("vlm.lm_head", "vlm/lm_head", bias=False)
    if action_layers is None:
        return tuple(rows)
    rows += _decoder("expert", "expert")
    trunk = "action_in_proj.encoder.trunk."
    for index in [0] + [3 * layer + 3 for layer in range(action_layers)]:
        rows += _linear(f"{trunk}{index}", f"action_in_proj/encoder/trunk_{index}")
    for layer in range(action_layers):
        rows += _norm(f"{trunk}{3 * layer + 2}", f"action_in_proj/encoder/trunk_{3 * layer + 2}", bias=False)
    rows += _norm("action_in_proj.norm", "action_in_proj/norm")
    rows += _linear("action_out_proj", "action_out_proj")
    return tuple(rows)


def to_ours(x: np.ndarray, transform: str) -> np.ndarray:
    """A checkpoint tensor in our layout."""
    if transform == "transpose":
        return x.T
    return x.reshape(x.shape[0], -1).T if transform == "conv3d" else x


def to_theirs(x: np.ndarray, transform: str, shape: tuple[int, ...]) -> np.ndarray:
    """Our array in the checkpoint's layout; shape is that of the checkpoint's tensor."""
    if transform == "transpose":
        return x.T
    return x.T.reshape(shape) if transform == "conv3d" else x


def their_shape(ours: tuple[int, ...], transform: str, conv: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Shape of the checkpoint's tensor for one layer of ours; conv: (channels, time, rows, columns) of a patch."""
    if transform == "transpose":
        return ours[::-1]
    return (ours[1], *conv) if transform == "conv3d" else ours
