"""Loads and runs an exported policy. Needs jax, numpy and safetensors, nothing else: a copy lies in every export.

    bundle = load("folder")
    out = bundle(pictures=..., history_xyz=..., history_rot=..., key=..., temperature=0.6, top_p=0.98, limit=256,
                 noise=...)
    out["trajectory_xyz"]

Names, shapes, dtypes, order and units of everything: manifest.json in the folder. A stage's program takes the weights
it lists, in that order, then its inputs, and returns its outputs in order.
"""

import hashlib
import json
import pathlib

import jax
import numpy as np
import safetensors
from jax import export

FORMAT = "ar1_jax.export/1"


class ExportError(ValueError):
    """A folder that is no complete export, or inputs that do not fit its programs."""


class Bundle:
    """stages: {name: function(**inputs) -> {output name: array}}, in order; manifest: the folder's description."""

    def __init__(self, manifest: dict, weights: dict, programs: dict):
        self.manifest, self.weights = manifest, weights
        self.stages = {name: self._stage(name, program) for name, program in programs.items()}

    def __call__(self, **inputs) -> dict:
        """All stages one after the other: inputs of all of them -> all outputs by name."""
        made = {o["name"] for s in self.manifest["stages"].values() for o in s["outputs"]}
        wanted = {i["name"]: i for s in self.manifest["stages"].values() for i in s["inputs"]}
        _check({n: i for n, i in wanted.items() if n not in made or n in inputs}, inputs, "bundle")
        values = dict(inputs)
        for name, stage in self.stages.items():
            values |= stage(**{i["name"]: values[i["name"]] for i in self.manifest["stages"][name]["inputs"]})
        return {name: value for name, value in values.items() if name not in inputs}

    def _stage(self, name: str, program):
        about = self.manifest["stages"][name]
        specs = {i["name"]: i for i in about["inputs"]}
        weights = [self.weights[path] for path in about["weights"]]
        call = jax.jit(program.call)

        def stage(**inputs):
            _check(specs, inputs, name)
            arrays = [jax.numpy.asarray(inputs[n], spec["dtype"]) for n, spec in specs.items()]
            return dict(zip([o["name"] for o in about["outputs"]], call(*weights, *arrays), strict=True))

        return stage


def load(folder, device=None) -> Bundle:
    """The stages of an exported folder with their weights on `device` (default: jax's).

    Every file is compared with its sha256. ExportError with everything that is missing or changed."""
    folder = pathlib.Path(folder)
    path = folder / "manifest.json"
    if not path.is_file():
        raise ExportError(f"{path}: no such file; give a folder that the verb export wrote")
    manifest = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise ExportError(f"{path}: format is {manifest.get('format')!r}, this loader reads {FORMAT!r}")
    _raise([p for name, about in manifest["files"].items() for p in _damage(folder / name, about)], folder)
    weights = read_weights(folder, manifest, device)
    programs = {}
    for name, about in manifest["stages"].items():
        program = export.deserialize(bytearray((folder / about["file"]).read_bytes()))
        platform = device.platform if device is not None else jax.default_backend()
        platform = {"gpu": "cuda"}.get(platform, platform)
        if platform not in program.platforms:
            raise ExportError(f"{about['file']}: made for {', '.join(program.platforms)}, this is {platform}")
        programs[name] = program
    return Bundle(manifest, weights, programs)


def read_weights(folder: pathlib.Path, manifest: dict, device=None) -> dict:
    """{path: array} as the manifest lists them; ExportError for names, shapes or dtypes that differ."""
    about, found, problems = manifest["weights"], {}, []
    with safetensors.safe_open(folder / about["file"], framework="numpy") as file:
        there = set(file.keys())
        for name, spec in about["tensors"].items():
            if name not in there:
                problems.append(f"{about['file']}: {name} is missing")
                continue
            x = file.get_tensor(name)
            problems += _differs(x, spec, f"{about['file']}: {name}")
            found[name] = jax.device_put(x, device)
        problems += [f"{about['file']}: {name} is unknown" for name in sorted(there - set(about["tensors"]))]
    _raise(problems, folder)
    return found


def _check(specs: dict, inputs: dict, where: str) -> None:
    """Names and shapes of inputs against the manifest's; dtypes only where a conversion would lose something."""
    problems = [
        f"{name} is missing, expected {_show(spec)}" for name, spec in specs.items() if name not in inputs
    ]
    problems += [f"{name} is unknown; inputs: {', '.join(specs)}" for name in inputs if name not in specs]
    for name, value in inputs.items():
        if name not in specs:
            continue
        spec = specs[name]
        shape, dtype = np.shape(value), getattr(value, "dtype", np.asarray(value).dtype)
        fits = jax.numpy.issubdtype(spec["dtype"], jax.numpy.floating) or not jax.numpy.issubdtype(
            dtype, jax.numpy.floating
        )
        if list(shape) != spec["shape"] or not fits:
            problems.append(f"{name} is {dtype}{list(shape)}, expected {_show(spec)}")
    _raise(problems, where)


def _damage(path: pathlib.Path, about: dict) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: missing"]
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return [] if digest == about["sha256"] else [f"{path.name}: torn or changed, its sha256 is {digest}"]


def _differs(x, spec: dict, name: str) -> list[str]:
    if list(x.shape) == spec["shape"] and str(x.dtype) == spec["dtype"]:
        return []
    return [f"{name} is {x.dtype}{list(x.shape)}, expected {_show(spec)}"]


def _show(spec: dict) -> str:
    return f"{spec['dtype']}{spec['shape']}"


def _raise(problems: list[str], where) -> None:
    if problems:
        raise ExportError("\n  ".join([f"{where}: {len(problems)} problem(s)", *problems]))
