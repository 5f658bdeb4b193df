"""Checkpoint folders of every kind, opened for conversion: Hugging Face, our orbax form, a run of ours, a base model.

What is wrong is collected, so that config, tokenizer, files and tensors are reported together. Nothing is written."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.checkpoints import converted, huggingface, layouts, runs, tensor_files
from ar1_jax.core import errors, trees
from ar1_jax.models.config import ModelConfig
from ar1_jax.policy import adapters, loading, sizes
from ar1_jax.policy import config as configs
from ar1_jax.policy.policy import Policy
from ar1_jax.text.vocabulary import TokenIds, Vocabulary


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder whose config, tokenizer, files and tensors fit each other.

    family: its model_type; raw, vlm: config.json of the policy and of its vision-language part (the same for a base
    model); place: folder of the latter's files within ours ("" for a base model). headers, index: how its tensors lie
    in safetensors, None for a run. weights: the files, None unless Hugging Face. read(shapes, dtype, shardings): its
    parameters, all or those of a part of the tree; stream(shapes, dtype): the same leaf by leaf, None for a run.
    """

    folder: pathlib.Path
    family: str
    model: ModelConfig
    raw: dict
    vlm: dict
    place: str
    vocabulary: Vocabulary | None
    files: layouts.Files
    headers: dict[str, tensor_files.Header] | None
    index: str
    buffers: dict
    weights: huggingface.Weights | None
    read: Callable
    stream: Callable | None = None

    def leaves(self, shapes, dtype):
        """A context in which `read(path, shape, sharding, out)` gives one parameter at a time; `dtypes` by path."""
        if self.stream is None or self.headers is None:
            return Held(self.read(shapes, dtype))
        return self.stream(shapes, dtype)

    @property
    def bare(self) -> bool:
        """Does it name tensors as a plain Qwen3-VL folder, without the prefix `vlm.`?"""
        return self.family == layouts.BASE


class Held:
    """Parameters in memory, read like those of a folder."""

    def __init__(self, params):
        self.params = trees.flatten(params)
        self.dtypes = {path: np.dtype(leaf.dtype) for path, leaf in self.params.items()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.params = {}

    def read(self, path: str, shape, sharding=None, out: np.ndarray | None = None):
        """A NumPy array, `out` where it is given; with a sharding a jax.Array."""
        leaf = self.params[path]
        if sharding is not None:
            return jax.device_put(leaf, sharding)
        if out is None:
            return np.asarray(leaf)
        out[...] = leaf
        return out


def open_folder(
    folder: str | pathlib.Path, tokenizer: pathlib.Path | None = None, stacked: bool = False
) -> tuple[Source | None, list[str]]:
    """A checkpoint folder ("nano": the bundled one) as a Source, or None and everything that is wrong with it.

    tokenizer: a folder with the vision-language model's files where it lacks them. stacked: the layers of one leaf
    must agree in dtype."""
    folder = loading.ASSETS / folder if str(folder) == "nano" else pathlib.Path(folder)
    if not folder.is_dir():
        return None, [f"{folder}: no such folder"]
    if runs.is_run(folder):
        return _of_run(folder, tokenizer)
    problems = []
    try:
        raw = huggingface.read_json(folder / "config.json")
    except errors.CheckpointError as error:
        raw, problems = {}, [str(error)]
    found = _describe(folder, raw, tokenizer, problems)
    if converted.is_one(folder):
        parts = _converted(folder, problems)
    else:
        weights, more = huggingface.inspect(folder)
        problems += more
        parts = {"weights": weights, "headers": weights.headers, "index": weights.index}
        if found and weights.headers:
            wanted, tied = loading.wanted(found["model"], _bare(raw)), layouts.tied(found["vlm"])
            problems += huggingface.check(weights, wanted, stacked, tied)
    if problems or not found:
        return None, problems
    source = _join(folder, raw, found, parts)
    return dataclasses.replace(source, files=_with(source, tokenizer)), []


def policy(folder: pathlib.Path, tokenizer: pathlib.Path | None, dtype, mesh) -> Policy:
    """A run as a policy; the arguments are those of `loading.load`."""
    source, problems = open_folder(folder, tokenizer)
    errors.raise_all(problems, str(folder), errors.CheckpointError)
    begun = source.files["config.json"]  # of what the run began from: a file, or bytes where that was nothing
    raw = source.raw if isinstance(begun, bytes) else configs.as_release(begun.parent, source.raw)
    config = configs.build(raw, source.vlm, source.vocabulary.ids, raw["model_type"], folder / "config.json")
    config = configs.with_buffers(config, {name: x.astype(np.float32) for name, x in source.buffers.items()})
    tree = loading.shapes(config.model)
    params = source.read(tree, dtype, None if mesh is None else loading.shardings(tree, mesh))
    params = jax.tree.map(jnp.asarray, params) if mesh is None else params
    return Policy(config, params, source.vocabulary, raw, source.vlm)


def _with(source: Source, tokenizer: pathlib.Path | None) -> layouts.Files:
    """A source's files, with the tokenizer and what else it lacks from another folder: then it stands by itself."""
    if tokenizer is None:
        return source.files
    at = lambda name: f"{source.place}/{name}" if source.place else name
    there = {at(name): tokenizer / name for name in ("config.json", "tokenizer.json", *layouts.PROCESSOR)
             if (tokenizer / name).is_file()}  # fmt: skip
    wins = {name: path for name, path in there.items() if path.name != "config.json"}
    return {**there, **source.files, **wins}


def _bare(raw: dict) -> bool:
    return raw.get("model_type") == layouts.BASE


def _describe(folder, raw: dict, tokenizer, problems: list[str]) -> dict | None:
    """model, vlm, place and vocabulary of a folder as far as they can be told; adds to `problems`."""
    where, family = folder / "config.json", raw.get("model_type")
    known = (*configs.FAMILIES, layouts.TRAINING, layouts.BASE)
    if not raw or family not in known:
        problems += [f"{where}: model_type is {family!r}, expected one of {', '.join(known)}"] if raw else []
        return None
    try:
        if family == layouts.BASE:
            if not ((tokenizer or folder) / "tokenizer.json").is_file():
                problems.append(f"{(tokenizer or folder) / 'tokenizer.json'}: missing (pass tokenizer= to take it from "
                                "another folder)")  # fmt: skip
            return {"model": configs.read_vlm(raw, where), "vlm": raw, "place": "", "vocabulary": None}
        try:
            config, vocabulary, _ = configs.read(folder, tokenizer)
            model = config.model
        except errors.CheckpointError as error:
            problems.append(str(error))
            model, vocabulary = _model_alone(folder, raw, tokenizer), None
        inside = configs.vlm_folder(folder, raw, tokenizer)
        place = str(inside.relative_to(folder)) if inside.is_relative_to(folder) else "vlm"
        vlm = huggingface.read_json(inside / "config.json")
        return {"model": model, "vlm": vlm, "place": place, "vocabulary": vocabulary}
    except errors.CheckpointError as error:
        problems += [] if str(error) in problems else [str(error)]
        return None


def _model_alone(folder, raw: dict, tokenizer) -> ModelConfig:
    """The networks of a policy without its tokenizer, so that tensors can be checked all the same."""
    vlm = huggingface.read_json(configs.vlm_folder(folder, raw, tokenizer) / "config.json")
    numbers = {field.name: -1 for field in dataclasses.fields(TokenIds)}
    ids = TokenIds(**numbers | {"size": raw.get("vocab_size", 0)})
    return configs.build(raw, vlm, ids, raw["model_type"], folder / "config.json").model


def _converted(folder, problems: list[str]) -> dict:
    try:
        runs.verify(folder)
        headers, index, _ = converted.record(folder)
        return {"weights": None, "headers": headers, "index": index}
    except errors.CheckpointError as error:
        problems.append(str(error))
        return {}


def _join(folder, raw: dict, found: dict, parts: dict) -> Source:
    weights = parts["weights"]
    if weights is None:
        stored = converted.buffers(folder)
        stream = lambda shapes, dtype=None: converted.Leaves(folder, shapes, dtype)
        read = lambda shapes, dtype=None, shardings=None: converted.read(
            folder, shapes, dtype, shardings, verified=True
        )
    else:
        stored = huggingface.buffers(weights)

        def wanted(shapes):
            part = dataclasses.replace(found["model"], **({} if "expert" in shapes else {"expert": None}))
            return loading.wanted(part, _bare(raw))

        stream = lambda shapes, dtype=None: huggingface.Leaves(weights, wanted(shapes), dtype)
        read = lambda shapes, dtype=None, shardings=None: huggingface.read(
            weights, wanted(shapes), shapes, dtype, shardings, checked=True
        )

    return Source(
        folder=folder, family=raw["model_type"], raw=raw, files=_others(folder, parts["headers"]), buffers=stored,
        read=read, stream=stream, **found, **parts,
    )  # fmt: skip


def _others(folder: pathlib.Path, headers) -> layouts.Files:
    """Every file that holds no weights, by relative name; hidden ones and pickled weights are left out."""
    weights = {*headers, huggingface.INDEX, *converted.OWN}
    out = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        ours = converted.is_one(folder) and name.parts[0] == converted.PARAMS
        if path.is_file() and not hidden and not ours and path.suffix not in huggingface.PICKLED:
            if str(name) not in weights:
                out[str(name)] = path
    return out


def _of_run(folder: pathlib.Path, tokenizer) -> tuple[Source | None, list[str]]:
    """A run of rl or sft: the policy it began from, with the best (else the newest) parameters it saved."""
    try:
        settings = huggingface.read_json(folder / "config.json")
        place = next(
            place for name in ("best", "checkpoints") if runs.latest(place := folder / name) is not None
        )
        step = place / f"{runs.latest(place):08d}"
        record = adapters.find(step)
        begin = record["base"] if record else settings.get("policy") or settings.get("model")
        if not record and "policy" not in settings and begin == "nano":
            base = _fresh_nano(folder)
        elif begin:
            base, problems = open_folder(begin, tokenizer)
            if base is None:
                return None, [f"{folder}: began from {begin}, which cannot be read:", *problems]
        else:
            return None, [f"{folder / 'config.json'}: neither policy nor model says what the run began from"]
    except errors.CheckpointError as error:
        return None, [str(error)]

    def read(shapes, dtype=None, shardings=None):
        if record:
            params = adapters.read(step, record, base.model, base.read)
        else:
            params = runs.load_params(step, loading.shapes(base.model))
        params = {name: params[name] for name in shapes}
        return loading.place(params, dtype, shardings)

    return dataclasses.replace(base, folder=folder, headers=None, index="", weights=None, read=read), []


def _fresh_nano(folder: pathlib.Path) -> Source:
    """nano as `sft` begins with it, without parameters."""
    vocabulary = Vocabulary(sizes.nano_tokenizer(), "alpamayo_nano", sizes.nano_trajectory_ids())
    raw, vlm = sizes.policy_config("nano"), sizes.vlm_config(sizes.size("nano"))
    config = configs.build(raw, vlm, vocabulary.ids, raw["model_type"], folder / "config.json")
    raw |= {"vocab_size": vocabulary.ids.size, "traj_token_start_idx": vocabulary.ids.trajectory}
    files = {
        "config.json": layouts.dumps(raw),
        "vlm/config.json": layouts.dumps(vlm),
        "vlm/tokenizer.json": vocabulary.json.encode(),
    }
    return Source(
        folder, raw["model_type"], config.model, raw, vlm, "vlm", vocabulary, files, None, "", {}, None, None
    )
