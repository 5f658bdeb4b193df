"""Writes a policy as a self-contained folder: a program a stage, weights, manifest, configs, tokenizer and loader.

    manifest.json  prefill.stablehlo ...  weights.safetensors  config.json  vlm/config.json  vlm/tokenizer.json  load.py

A program is `jax.export`'s serialised StableHLO for all platforms asked for; it holds no weights. Kernels written for a
chip can be in a program for that platform alone.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence

import flax
import jax
import jaxlib
import numpy as np
import safetensors.numpy
from ar1_kernels import backend
from jax import export

import ar1_jax
from ar1_jax.checkpoints import folders
from ar1_jax.core import errors, trees
from ar1_jax.export import runtime, stages

PLATFORMS = ("cpu", "cuda", "tpu")
CHIPS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}  # as kernels call them
UNITS = {
    "history_xyz": "m, 10 Hz, ego frame at t0 (x forward, y left, z up), last row = t0",
    "history_rot": "rotation matrices of the same poses",
    "pictures": "RGB, cameras by ascending id, oldest frame first",
    "pixels": "patches as ar1_jax.images.patchify makes them", "key": "raw threefry key data, one a scene",
    "limit": "most ids of a completion", "noise": "standard normal", "log_prob": "nats, 0 in the padding",
    "actions": "normalised", "controls": "m/s^2, 1/m", "trajectory_xyz": "m, 0.1 s apart, ego frame at t0",
    "trajectory_rot": "rotation matrices of the trajectory", "top_p": "nucleus, 1 = everything",
}  # fmt: skip


def write(
    policy,
    sizes: stages.Sizes,
    target,
    names: Sequence[str] = tuple(stages.WEIGHTS),
    platforms=PLATFORMS,
    chip="",
) -> dict:
    """Exports the stages `names` of a policy to the new folder `target`; -> the manifest.

    chip: as jax names the device for which the policy's kernels are made ("NVIDIA H200", "TPU v6 lite"); "" for the XLA
    path, and on TPUs for the block sizes of one that is not in their table. ConfigError for unknown stages, platforms
    or sizes, GPU kernels of no chip and a chip for several platforms; CheckpointError for a target that is not empty,
    not writable or on a full disk. Nothing half-written remains."""
    for name in names:
        errors.one_of(name, stages.WEIGHTS, "stage")
    for name in platforms:
        errors.one_of(name, PLATFORMS, "platform")
    if not names or not platforms:
        raise errors.ConfigError("export: name at least one stage and one platform")
    kernels, chips = policy.config.model.kernels, {CHIPS[name] for name in platforms}
    if kernels in backend.PLATFORM and chips != {backend.PLATFORM[kernels]}:
        raise errors.ConfigError(
            f"export: kernels={kernels!r} run on one platform only; ask for that one (config.platforms), or 'xla'"
        )
    if kernels == "pallas_gpu" and not chip:
        raise errors.ConfigError(
            "export: kernels='pallas_gpu' differ from chip to chip; name it as jax does: config.chip=\"NVIDIA H200\""
        )
    if chip and len(platforms) > 1:
        raise errors.ConfigError(
            f"export: chip={chip!r} is of one platform; ask for that one (config.platforms)"
        )
    stages.check(policy, sizes)
    flat = {path: x for name in names for path, x in trees.flatten(stages.part(name, policy.params)).items()}
    problems = folders.problems(pathlib.Path(target), trees.num_bytes(flat), policy.source)
    errors.raise_all(problems, "export", errors.CheckpointError)
    made = stages.make(policy, sizes)
    with folders.new(pathlib.Path(target)) as staging:
        about = {
            name: program(made[name], policy.params, platforms, staging, chip)
            for name in made
            if name in names
        }
        copy(policy, staging)
        write_weights(staging / "weights.safetensors", flat)
        manifest = describe(policy, sizes, flat, about, platforms) | ({"chip": chip} if chip else {})
        manifest["files"] = {
            str(p.relative_to(staging)): digest(p) for p in sorted(staging.rglob("*")) if p.is_file()
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def program(stage: stages.Stage, params, platforms, folder: pathlib.Path, chip="") -> dict:
    """Exports one stage into NAME.stablehlo; -> its part of the manifest."""
    part = stages.part(stage.name, params)
    weights, tree = trees.flatten(part), jax.tree.structure(part)
    names: list[str] = []

    def flat(*arrays):
        held, given = arrays[: len(weights)], arrays[len(weights) :]
        inputs = dict(zip(stage.inputs, given, strict=True))
        out = stage.function(jax.tree.unflatten(tree, held), inputs)
        names[:] = out
        return tuple(out.values())

    specs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in weights.values()]
    with backend.tracing_for(CHIPS[platforms[0]] if len(platforms) == 1 else "cpu", chip):
        done = export.export(jax.jit(flat, keep_unused=True), platforms=platforms)(
            *specs, *stage.inputs.values()
        )
    path = folder / f"{stage.name}.stablehlo"
    path.write_bytes(done.serialize())
    return {
        "file": path.name, "bytes": path.stat().st_size, "weights": list(weights),
        "inputs": [spec(name, x) for name, x in stage.inputs.items()],
        "outputs": [spec(name, x) for name, x in zip(names, done.out_avals, strict=True)],
        "calling_convention_version": done.calling_convention_version,
    }  # fmt: skip


def spec(name: str, x) -> dict:
    """{"name", "dtype", "shape", "unit" where there is one} of an array."""
    unit = {"unit": UNITS[name]} if name in UNITS else {}
    return {"name": name, **tensor(x), **unit}


def tensor(x) -> dict:
    """{"dtype", "shape"}."""
    return {"dtype": np.dtype(x.dtype).name, "shape": list(x.shape)}


def write_weights(path: pathlib.Path, flat: dict) -> None:
    """Parameters by path, stacked as the programs want them."""
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in flat.items()}, path)


def copy(policy, folder: pathlib.Path) -> None:
    """Configs, tokenizer and the loader."""
    text = lambda value: json.dumps(value, indent=2) + "\n"
    (folder / "vlm").mkdir()
    (folder / "config.json").write_text(text({**policy.raw, "vlm_name_or_path": "vlm"}))
    (folder / "vlm" / "config.json").write_text(text(policy.vlm))
    (folder / "vlm" / "tokenizer.json").write_text(policy.vocabulary.json)
    shutil.copyfile(runtime.__file__, folder / "load.py")


def describe(policy, sizes: stages.Sizes, flat: dict, about: dict, platforms) -> dict:
    """The manifest without the files' digests."""
    ids = policy.config.ids
    return {
        "format": runtime.FORMAT, "family": policy.config.family, "source": policy.source.name if policy.source else "",
        "versions": {"ar1_jax": ar1_jax.__version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__,
                     "flax": flax.__version__},
        "platforms": list(platforms), "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "sizes": dataclasses.asdict(sizes), "stages": about,
        "ids": {"pad": ids.pad, "cot_end": ids.cot_end, "trajectory_start": ids.future_start, "vocabulary": ids.size},
        "weights": {"file": "weights.safetensors", "tensors": {path: tensor(x) for path, x in flat.items()}},
    }  # fmt: skip


def digest(path: pathlib.Path) -> dict:
    """Size and sha256 of a file."""
    with open(path, "rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
