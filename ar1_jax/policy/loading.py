"""Policies from folders and back: our own and the released ones share one layout (config.json, weights, vlm/)."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.checkpoints import huggingface
from ar1_jax.core import errors
from ar1_jax.models import alpamayo
from ar1_jax.models.config import ModelConfig
from ar1_jax.policy import config as configs
from ar1_jax.policy import sizes
from ar1_jax.policy.policy import Policy
from ar1_jax.text.vocabulary import Vocabulary

ASSETS = pathlib.Path(__file__).parents[1] / "assets"


def load(
    source: str | pathlib.Path = "nano", *, dtype=None, tokenizer: str | pathlib.Path | None = None
) -> Policy:
    """The bundled policy "nano", or a folder in Hugging Face layout (released or ours).

    dtype: of the parameters, float32 by default on CPU, bfloat16 elsewhere. tokenizer: a folder with tokenizer.json
    where the checkpoint has none. Raises CheckpointError listing everything that is amiss.
    """
    folder = ASSETS / source if str(source) in ("nano",) else pathlib.Path(source)
    if not folder.is_dir():
        raise errors.CheckpointError(
            f"{folder}: no such folder; give a checkpoint folder, or 'nano' for the bundled policy"
        )
    config, vocabulary, raw = configs.read(folder, None if tokenizer is None else pathlib.Path(tokenizer))
    config = configs.with_buffers(config, huggingface.buffers(folder))
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    params = huggingface.read(folder, shapes(config.model), patch_shape(config.model), config.model.expert.in_layers,
                              np.dtype(jnp.dtype(dtype)))  # fmt: skip
    vlm = huggingface.read_json(folder / raw["vlm_name_or_path"] / "config.json")
    policy = Policy(config, jax.tree.map(jnp.asarray, params), vocabulary, raw, vlm)
    policy.source = folder
    return policy


def create(name: str, key) -> Policy:
    """A fresh, untrained policy of a size (`ar1_jax.policy.sizes`); only nano brings a vocabulary of its own."""
    if name != "nano":
        raise errors.ConfigError(
            f"model={name!r}: only nano can be made from nothing; the others load a checkpoint folder"
        )
    vocabulary = Vocabulary(sizes.nano_tokenizer(), "alpamayo_nano", sizes.nano_trajectory_ids())
    raw, vlm = sizes.policy_config(name), sizes.vlm_config(sizes.size(name))
    config = configs.build(raw, vlm, vocabulary.ids, raw["model_type"], pathlib.Path(name) / "config.json")
    return Policy(
        config, jax.jit(functools.partial(alpamayo.init_params, config.model))(key), vocabulary, raw, vlm
    )


def save(policy: Policy, folder: pathlib.Path, extra: dict[str, str]) -> None:
    """Write policy as a folder; CheckpointError where it is not empty or cannot be written."""
    text = lambda value: json.dumps(value, indent=2) + "\n"
    raw = {**policy.raw, "vlm_name_or_path": "vlm", "vocab_size": policy.config.ids.size,
           "traj_token_start_idx": policy.config.ids.trajectory}  # fmt: skip
    files = {"vlm/config.json": text(policy.vlm), "vlm/tokenizer.json": policy.vocabulary.json, **extra}
    params = jax.device_get(policy.params)
    model = policy.config.model
    huggingface.write(folder, params, raw, files, patch_shape(model), model.expert.in_layers)


def shapes(model: ModelConfig):
    """The parameter tree as ShapeDtypeStructs, float32."""
    return jax.eval_shape(functools.partial(alpamayo.init_params, model), jax.random.key(0))


def patch_shape(model: ModelConfig) -> tuple[int, int, int, int]:
    """(channels, time, rows, columns) of a patch, as the checkpoint's convolution holds it."""
    v = model.vision
    return v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size
