"""Policies from folders and back: our own and the released ones share one layout (config.json, weights, vlm/)."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ar1_kernels import backend

from ar1_jax.checkpoints import converted, huggingface, layouts, runs
from ar1_jax.core import compile_cache, errors, sharding, sharding_tables
from ar1_jax.models import alpamayo
from ar1_jax.models.config import ModelConfig
from ar1_jax.policy import config as configs
from ar1_jax.policy import quantization as quantizing
from ar1_jax.policy import sizes
from ar1_jax.policy.policy import Policy
from ar1_jax.text.vocabulary import Vocabulary

ASSETS = pathlib.Path(__file__).parents[1] / "assets"


def load(
    source: str | pathlib.Path = "nano",
    *,
    dtype=None,
    tokenizer: str | pathlib.Path | None = None,
    mesh=None,
    quantization: str | None = None,
    constants: str | None = None,
    kernels: str = "auto",
    cache_dir: str | pathlib.Path | None = None,
) -> Policy:
    """The bundled policy "nano", or a folder: Hugging Face layout (released or ours), what `convert` made of one, or a
    run of `sft` or `rl` (its best, else its newest step; low-rank adapters are merged into their base).

    dtype: of the parameters, float32 by default on CPU, bfloat16 elsewhere. tokenizer: a folder with the
    vision-language model's config.json and tokenizer.json where the checkpoint has none. mesh: devices
    (`core.sharding.make_mesh`) over which the house's table spreads the parameters; each process reads its own part.
    quantization: "int8" (or "fp8" where the GPU has it): the layers' kernels in eight bits (policy/quantization.py).
    constants: action statistics and Fourier frequencies, "float32" as configured, "bfloat16" rounded as the released
    code rounds them when it loads in bfloat16; by default stored ones, else rounded where a release loads in bfloat16.
    kernels: back-end of attention and log-probabilities: "auto", "xla", "pallas_tpu", "pallas_gpu" or "cudnn".
    cache_dir: compiled programs are kept there and taken from there, so that the next process starts without compiling
    (of the whole process; verbs have theirs, AR1_JAX_CACHE).
    Raises CheckpointError listing everything that is amiss, ShardingError where the mesh does not fit.
    """
    folder = ASSETS / source if str(source) in ("nano",) else pathlib.Path(source)
    if not folder.is_dir():
        raise errors.CheckpointError(
            f"{folder}: no such folder; give a checkpoint folder, or 'nano' for the bundled policy"
        )
    if cache_dir is not None:
        compile_cache.use(cache_dir)
    if quantization is not None:
        quantizing.check(quantization, mesh)
    if constants is not None:
        errors.one_of(constants, ("float32", "bfloat16"), "constants")
    tokenizer = None if tokenizer is None else pathlib.Path(tokenizer)
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    dtype = np.dtype(jnp.dtype(dtype))
    read = _run if runs.is_run(folder) else _folder
    policy = read(folder, tokenizer, dtype, mesh)
    policy.config = with_kernels(_with_constants(policy, constants, dtype), kernels)
    if quantization is not None:
        policy.params = quantizing.quantize(policy.params, quantization)
    policy.source = folder
    return policy


def with_kernels(config, kernels: str):
    """A policy's config whose model asks for these kernels; ConfigError for a name that is none."""
    errors.one_of(kernels, backend.BACKENDS, "kernels")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, kernels=kernels))


def _with_constants(policy: Policy, constants: str | None, dtype):
    """The policy's config with the constants that `load` was asked for."""
    if constants == "float32":
        where = pathlib.Path("config.json")
        return configs.build(policy.raw, policy.vlm, policy.config.ids, policy.config.family, where)
    release = policy.config.family in ("alpamayo_r1", "alpamayo1_5")
    if constants == "bfloat16" or (release and dtype == jnp.bfloat16):
        return configs.rounded(policy.config)
    return policy.config


def _run(folder: pathlib.Path, tokenizer, dtype, mesh) -> Policy:
    from ar1_jax.policy import sources  # which knows this file

    return sources.policy(folder, tokenizer, dtype, mesh)


def _folder(folder: pathlib.Path, tokenizer, dtype, mesh) -> Policy:
    config, vocabulary, raw = configs.read(folder, tokenizer)
    vlm = huggingface.read_json(configs.vlm_folder(folder, raw, tokenizer) / "config.json")
    tree = shapes(config.model)
    placed = None if mesh is None else shardings(tree, mesh)
    if converted.is_one(folder):
        stored = converted.buffers(folder)
        params = converted.read(folder, tree, dtype, placed, finish=jnp.asarray)
    else:
        found = huggingface.weights(folder)
        stored = huggingface.buffers(found)
        params = huggingface.read(
            found, wanted(config.model), tree, dtype, placed, finish=jnp.asarray, tied=layouts.tied(vlm)
        )
    config = configs.with_buffers(config, {name: x.astype(np.float32) for name, x in stored.items()})
    return Policy(config, params, vocabulary, raw, vlm)


def shardings(tree, mesh):
    """Where the parameters of a policy or of a plain vision-language model lie on a mesh: a tree of NamedShardings."""
    table = sharding_tables.PARAMETERS if "expert" in tree else sharding_tables.VLM
    return sharding.shardings(sharding.specs(tree, table, mesh), mesh)


def place(params, dtype=None, shardings=None):
    """Parameters in another dtype (None: as they are) and, where shardings (a tree) are given, spread by them."""
    kept = lambda x: x if dtype is None else x.astype(dtype)
    if shardings is None:
        return jax.tree.map(kept, params)
    return jax.tree.map(lambda x, where: jax.device_put(kept(x), where), params, shardings)


def create(name: str, key, kernels: str = "auto") -> Policy:
    """A fresh, untrained policy of a size (`ar1_jax.policy.sizes`); only nano brings a vocabulary of its own.

    kernels: as for `load`."""
    if name != "nano":
        raise errors.ConfigError(
            f"model={name!r}: only nano can be made from nothing; the others load a checkpoint folder"
        )
    vocabulary = Vocabulary(sizes.nano_tokenizer(), "alpamayo_nano", sizes.nano_trajectory_ids())
    raw, vlm = sizes.policy_config(name), sizes.vlm_config(sizes.size(name))
    config = configs.build(raw, vlm, vocabulary.ids, raw["model_type"], pathlib.Path(name) / "config.json")
    params = jax.jit(functools.partial(alpamayo.init_params, config.model))(key)
    return Policy(with_kernels(config, kernels), params, vocabulary, raw, vlm)


def save(policy: Policy, folder: pathlib.Path, extra: dict[str, str]) -> None:
    """Write policy as a folder; CheckpointError where that is not empty or not writable, or weights are quantised."""
    if quantizing.any_quantized(policy.params):
        raise errors.CheckpointError(
            f"{folder}: quantised weights are not saved; load the checkpoint with quantization= each time"
        )
    text = lambda value: json.dumps(value, indent=2) + "\n"
    raw = {**policy.raw, "vlm_name_or_path": "vlm", "vocab_size": policy.config.ids.size,
           "traj_token_start_idx": policy.config.ids.trajectory}  # fmt: skip
    vlm = layouts.untied(policy.vlm) if layouts.tied(policy.vlm) else policy.vlm
    files = {"vlm/config.json": text(vlm), "vlm/tokenizer.json": policy.vocabulary.json, **extra}
    model = policy.config.model
    huggingface.write(folder, policy.params, raw, files, patch_shape(model), model.expert.in_layers)


@functools.cache
def shapes(model: ModelConfig):
    """The parameter tree as ShapeDtypeStructs, float32; made once a model, so do not change it in place."""
    return jax.eval_shape(functools.partial(alpamayo.init_params, model), jax.random.key(0))


def wanted(model: ModelConfig, bare: bool = False) -> huggingface.Wanted:
    """Every tensor of a checkpoint by name; bare: as a plain Qwen3-VL folder names them."""
    layers = None if model.expert is None else model.expert.in_layers
    return huggingface.tensors(shapes(model), patch_shape(model), layers, bare)


def patch_shape(model: ModelConfig) -> tuple[int, int, int, int]:
    """(channels, time, rows, columns) of a patch, as the checkpoint's convolution holds it."""
    v = model.vision
    return v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size
