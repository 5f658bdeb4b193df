"""Checkpoint folders of the goldens, written once a session into the temporary directory."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import ar1_jax
from tests.goldens import weights

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


@functools.cache
def folder(name: str) -> pathlib.Path:
    """The folder of golden NAME: config.json, safetensors, vlm/ with tokenizer."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="ar1-golden-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    weights.write_folder(name, str(root / name), str(GOLDENS))
    return root / name


@functools.cache
def policy(name: str):
    """The loaded golden NAME, float32."""
    return ar1_jax.load(folder(name), dtype="float32")


def spec(name: str) -> dict:
    """Sizes, scenes and calls of golden NAME."""
    return weights.load_specs(str(GOLDENS))["goldens"][name]


def scene(name: str, scene_name: str, history) -> ar1_jax.Scene:
    """A golden's scene with its seeded pictures; history: (xyz [16, 3], rot [16, 3, 3])."""
    s = spec(name)["scenes"][scene_name]
    shape = (len(s["camera_ids"]), s["frames"], s["height"], s["width"], 3)
    return ar1_jax.Scene(
        weights.images(s["image_seed"], shape), s["camera_ids"], *history, s["route"], s["question"]
    )
