"""What tells one family of checkpoint folders from another besides tensors: config.json, file places, licence.

Alpamayo 1 and 1.5 differ in model_type, architectures and the package of four kinds of `_target_`; the training layout
in the same and in its extended processor beside the weights (post_training.md section 4). The vision-language part
alone is a plain Qwen3-VL folder. Contents of files are bytes or the path of a file that is copied."""

import copy
import json
import pathlib
import re

from ar1_jax.core import errors

TRAINING, BASE = "alpamayo_reasoning_vla", "qwen3_vl"
LAYOUTS = {"alpamayo_r1": "alpamayo_r1", "alpamayo1_5": "alpamayo1_5", "training": TRAINING, "vlm": BASE}
ARCHITECTURES = {
    "alpamayo_r1": "AlpamayoR1", "alpamayo1_5": "Alpamayo1_5", TRAINING: "ReasoningVLA",
    BASE: "Qwen3VLForConditionalGeneration",
}  # fmt: skip
TARGET = re.compile(
    r"alpamayo(?:_r1|1_5)\.((?:models\.action_in_proj|models\.delta_tokenizer|action_space|diffusion)\..+)"
)
# Files of a vision-language model's processor, beside config.json and tokenizer.json.
PROCESSOR = (
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.json",
    "chat_template.jinja", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
LICENCES = {
    "alpamayo_r1": "weights of Alpamayo 1 and what is trained from them: non-commercial (NVIDIA's model licence)",
    "alpamayo1_5": "weights of Alpamayo 1.5 and what is trained from them: non-commercial (NVIDIA's model licence)",
    TRAINING: "weights of Alpamayo 1 and 1.5 and what is trained from them: non-commercial (NVIDIA's model licence)",
    "alpamayo_nano": "weights of nano: Apache-2.0",
    BASE: "weights of a base model: the licence of the folder they came from; taken out of Alpamayo: non-commercial",
}
CODE_LICENCE = "code of AR1-JAX: Apache-2.0"

Files = dict[str, bytes | pathlib.Path]


def change(raw: dict, to: str, vlm_name_or_path: str = "") -> dict:
    """config.json of a policy as the family `to` (a model_type) has it; all other keys stay as they are.

    vlm_name_or_path: where the training code finds the vision-language model, "" to leave the key."""
    package = "alpamayo1_5" if to == "alpamayo1_5" else "alpamayo_r1"

    def moved(value, key=None):
        if isinstance(value, dict):
            return {k: moved(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [moved(v) for v in value]
        found = TARGET.fullmatch(value) if key == "_target_" and isinstance(value, str) else None
        return f"{package}.{found[1]}" if found else value

    out = moved(raw) | {"model_type": to, "architectures": [ARCHITECTURES[to]]}
    return out | ({"vlm_name_or_path": vlm_name_or_path} if vlm_name_or_path else {})


def tied(vlm: dict) -> bool:
    """Does a vision-language model's config say that its head is the embedding transposed?"""
    return any(part.get("tie_word_embeddings", False) for part in (vlm, vlm.get("text_config", {})))


def untied(vlm: dict) -> dict:
    """The config of the same model with a head of its own: training moves the two apart."""
    out = copy.deepcopy(vlm) | {"tie_word_embeddings": False}
    out["text_config"].pop("tie_word_embeddings", None)
    return out


def dumps(content: dict) -> bytes:
    """JSON as the releases write it."""
    return (json.dumps(content, indent=2) + "\n").encode()


def as_training(files: Files, raw: dict, tokenizer: str, place: str, vlm_name_or_path: str) -> Files:
    """A policy's files in the training layout: its config, and the processor with the extended vocabulary on top.

    tokenizer: tokenizer.json with the extended vocabulary; place: folder of the vision-language model's files."""
    top = {name: files[f"{place}/{name}"] for name in PROCESSOR if f"{place}/{name}" in files}
    config = dumps(change(raw, TRAINING, vlm_name_or_path))
    return {**top, **files, "tokenizer.json": tokenizer.encode(), "config.json": config}


def as_release(files: Files, raw: dict, to: str, place: str, vlm_name_or_path: str) -> Files:
    """A policy's files as the release `to` has them; what the training layout put on top is left out again."""
    extra = {name for name in (*PROCESSOR, "tokenizer.json") if f"{place}/{name}" in files}
    training = raw.get("model_type") == TRAINING
    kept = {name: content for name, content in files.items() if not (training and name in extra)}
    return {**kept, "config.json": dumps(change(raw, to, vlm_name_or_path))}


def as_vlm(files: Files, vlm: dict, tokenizer: str, place: str, vocabulary: int) -> Files:
    """The vision-language part alone: its files on top, with the extended vocabulary in config and tokenizer."""
    config = copy.deepcopy(vlm)
    config["text_config"]["vocab_size"] = vocabulary
    config |= {"architectures": [ARCHITECTURES[BASE]], "tie_word_embeddings": tied(vlm)}
    inside = {name.removeprefix(f"{place}/"): c for name, c in files.items() if name.startswith(f"{place}/")}
    return {**inside, "config.json": dumps(config), "tokenizer.json": tokenizer.encode()}


def refuse_change(family: str, layout: str) -> list[str]:
    """Why a folder of `family` (a model_type) cannot take a layout, one line or none."""
    known = [*LAYOUTS]
    if layout and layout not in known:
        return [f"layout: unknown {layout!r}{errors.nearest(layout, known)}; known: {', '.join(known)}"]
    if layout in ("", "vlm") or family not in (BASE, "alpamayo_nano"):
        return []
    return [f"layout: {layout!r} is for Alpamayo 1 and 1.5; the source is {family}"]


def licences(family: str) -> list[str]:
    """The lines `convert` prints: the code's licence and that of the weights of a family (a model_type)."""
    return [f"licence, {line}" for line in (CODE_LICENCE, LICENCES[family])]
