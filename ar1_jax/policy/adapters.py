"""Low-rank adapters in a run folder: what a checkpoint says of their base, and the policy both make together.

A step of such a run holds adapters as `params` and, in loop.json, the record under "lora": the recipe (rank, alpha,
targets), where the base lies, in which dtype it was read and the checksum of its arrays. Another base is refused.
"""

import functools
import pathlib
from collections.abc import Callable

import jax

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors, trees
from ar1_jax.models import lora
from ar1_jax.models.config import ModelConfig
from ar1_jax.policy import loading

RECORD = "lora"


def record(recipe: lora.Recipe, source: str | pathlib.Path, params) -> dict:
    """JSON values; source: "nano" or the folder that `params`, all of one dtype, were loaded from."""
    base = str(source) if str(source) == "nano" else str(pathlib.Path(source).resolve())
    dtype = jax.tree.leaves(params)[0].dtype.name
    own = {"rank": recipe.rank, "alpha": recipe.alpha, "targets": list(recipe.targets)}
    return own | {"base": base, "dtype": dtype, "checksum": trees.checksum(params)}


def find(step: pathlib.Path) -> dict | None:
    """The record of one step of a run, None where it holds whole parameters."""
    return (runs.read_text(step, "loop") or {}).get(RECORD)


def read(step: pathlib.Path, said: dict, model: ModelConfig, base: Callable):
    """The merged parameters in float32; base(shapes, dtype) reads the base's.

    CheckpointError where the base is not the one that the adapters were trained on, or a file is amiss."""
    shapes = loading.shapes(model)
    params = base(shapes, said["dtype"])
    if (found := trees.checksum(params)) != said["checksum"]:
        raise errors.CheckpointError(
            f"{step}: its adapters were trained on other parameters than {said['base']} holds now (checksum {found}, "
            f"expected {said['checksum']})"
        )
    fresh = functools.partial(lora.init, targets=said["targets"], rank=said["rank"], key=jax.random.key(0))
    adapters = runs.load_params(step, jax.eval_shape(fresh, shapes))
    return lora.merge(loading.place(params, "float32"), adapters, said["alpha"] / said["rank"])
