"""The stages of planning with flat, named arrays in and out, so that any runtime can call them.

    prompt -> prefill -> decode -> flow

A value keeps its name from the stage that makes it to the stages that read it. B scenes, C cameras, T frames, S prompt
length, K samples, L completion room, A controls, D width, J kv heads, E head width. Everything is the XLA path over
stacked layers; weights are arguments. Random keys are their raw data (threefry, uint32 [B, 2]).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax import actions
from ar1_jax.core import errors, trees
from ar1_jax.models.alpamayo import Prefix, Prompt, prefill
from ar1_jax.models.decoder import Cache
from ar1_jax.policy import policy as policies
from ar1_jax.policy import prompts, quantization, sampling

LANGUAGE, HEAD = r"vlm/model/language_model/.*", r"vlm/lm_head/.*"
WEIGHTS = {  # stage -> patterns of the parameters that it reads
    "prompt": (),
    "prefill": (r"vlm/model/visual/.*", LANGUAGE),
    "decode": (LANGUAGE, HEAD),
    "flow": (r"expert/.*", r"action_in_proj/.*", r"action_out_proj/.*"),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is fixed in the programs. cameras: ids, ascending; height, width: of the pictures in pixels, as the policy
    reads them; prompt_length: S, at least the layout's; max_new_tokens: most ids of a reasoning (L is at most that);
    greedy: decode takes the likeliest id and has no key, temperature and top_p."""

    cameras: tuple[int, ...]
    frames: int
    height: int
    width: int
    prompt_length: int
    batch: int = 1
    samples: int = 6
    max_new_tokens: int = 256
    greedy: bool = False
    top_k: int = 0
    flow_steps: int = 10
    integrator: str = "euler"


@dataclasses.dataclass(frozen=True)
class Stage:
    """function(params, {input name: array}) -> {output name: array}; inputs: their shapes and dtypes, in order."""

    name: str
    function: Callable
    inputs: dict[str, jax.ShapeDtypeStruct]


def layout(policy, cameras: Sequence[int], frames: int, height: int, width: int) -> prompts.Template:
    """The prompt of these pictures without route."""
    patch = policy.config.model.vision.patch_size
    grid = (height // patch, width // patch)
    return policy.templates.plan(tuple(cameras), frames, (grid,) * (len(cameras) * frames), None)


def make(policy, sizes: Sizes) -> dict[str, Stage]:
    """All stages of a policy by name, in the order of planning."""
    config, b, s = policy.config, sizes.batch, sizes.prompt_length
    model, text, k = config.model, config.model.text, sizes.samples
    grid = (sizes.height // model.vision.patch_size, sizes.width // model.vision.patch_size)
    pictures = b * len(sizes.cameras) * sizes.frames
    values = model.vision.in_channels * model.vision.temporal_patch_size * model.vision.patch_size**2
    rules = config.grammar("flow", sizes.max_new_tokens)
    length = rules.length if rules.strict else sizes.max_new_tokens
    weights = jax.tree.leaves(policy.params["vlm"]["lm_head"])[0].dtype
    kv = (text.num_key_value_heads, text.head_dim)
    i32, f32 = jnp.int32, jnp.float32
    shapes = {
        "pictures": ((b, len(sizes.cameras), sizes.frames, sizes.height, sizes.width, 3), jnp.uint8),
        "history_xyz": ((b, 16, 3), f32), "history_rot": ((b, 16, 3, 3), f32),
        "input_ids": ((b, s), i32), "length": ((b,), i32), "position_ids": ((3, b, s), i32),
        "next_position": ((b,), i32), "image_index": ((b, s), i32),
        "pixels": ((pictures, grid[0] * grid[1], values), f32),
        "prefix_k": ((text.num_hidden_layers, b, kv[0], s, kv[1]), weights),
        "prefix_v": ((text.num_hidden_layers, b, kv[0], s, kv[1]), weights), "hidden": ((b, text.hidden_size), weights),
        "key": ((b, 2), jnp.uint32), "temperature": ((), f32), "top_p": ((), f32), "limit": ((), i32),
        "suffix_k": ((text.num_hidden_layers, b, k, kv[0], length, kv[1]), weights),
        "suffix_v": ((text.num_hidden_layers, b, k, kv[0], length, kv[1]), weights),
        "suffix_length": ((b, k), i32), "start": ((b, k), i32), "noise": ((b, k, model.actions, 2), f32),
    }  # fmt: skip
    random = () if sizes.greedy else ("key", "temperature", "top_p")
    reads = {
        "prompt": ("pictures", "history_xyz", "history_rot"),
        "prefill": ("input_ids", "length", "position_ids", "next_position", "image_index", "pixels"),
        "decode": ("prefix_k", "prefix_v", "length", "next_position", "hidden", "limit", *random),
        "flow": ("prefix_k", "prefix_v", "length", "suffix_k", "suffix_v", "suffix_length", "start", "noise",
                 "history_xyz", "history_rot"),
    }  # fmt: skip
    template = layout(policy, sizes.cameras, sizes.frames, sizes.height, sizes.width)
    functions = {
        "prompt": functools.partial(_prompt, config, template, s),
        "prefill": functools.partial(_prefill, model, grid),
        "decode": functools.partial(_decode, model, rules, length, sizes),
        "flow": functools.partial(_flow, config, sizes),
    }
    spec = lambda name: jax.ShapeDtypeStruct(*shapes[name])
    return {n: Stage(n, functions[n], {i: spec(i) for i in names}) for n, names in reads.items()}


def _prompt(config, template, size, params, x):
    """Pictures and history laid out as a prompt of `size` ids; cameras, frames and texts are constants."""
    made = prompts.encode_batch(config, template, x["pictures"], x["history_xyz"], x["history_rot"])
    room = size - made.input_ids.shape[-1]
    pad = lambda a, value: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, room)], constant_values=value)
    return {
        "input_ids": pad(made.input_ids, config.ids.pad), "length": made.length,
        "position_ids": pad(made.position_ids, 0), "next_position": made.next_position,
        "image_index": pad(made.image_index, -1), "pixels": made.pixels[0],
    }  # fmt: skip


def _prefill(model, grid, params, x):
    """The prompt through vision tower and decoder."""
    prompt = Prompt(x["input_ids"], x["length"], x["position_ids"], x["next_position"], x["image_index"],
                    (x["pixels"],), (grid,))  # fmt: skip
    prefix = prefill(model, params, prompt)
    return {"prefix_k": prefix.cache.k, "prefix_v": prefix.cache.v, "hidden": prefix.hidden}


def _decode(model, rules, length, sizes: Sizes, params, x):
    """K completions a scene, and where the expert begins behind each."""
    prefix = _prefix(x)
    keys = jax.random.wrap_key_data(x["key"] if "key" in x else jnp.zeros((sizes.batch, 2), jnp.uint32))
    done = sampling.sample(
        model, rules, params, prefix, keys, samples=sizes.samples, length=length, greedy=sizes.greedy,
        temperature=x.get("temperature", 1.0), top_p=x.get("top_p"), top_k=sizes.top_k or None, limit=x["limit"],
    )  # fmt: skip
    used, start = policies.trigger_state(rules, prefix, done)
    return {
        "ids": done.ids, "log_prob": done.log_prob, "lengths": done.lengths, "complete": done.complete,
        "suffix_k": done.suffix.k, "suffix_v": done.suffix.v, "suffix_length": used, "start": start,
    }  # fmt: skip


def _flow(config, sizes: Sizes, params, x):
    """Trajectories by integrating the expert's field from the noise."""
    suffix = Cache(x["suffix_k"], x["suffix_v"], heads_first=True)
    normal = policies.flow(
        config, params, _prefix(x), suffix, x["suffix_length"], x["start"], x["noise"],
        steps=sizes.flow_steps, integrator=sizes.integrator,
    )  # fmt: skip
    xyz, rot = policies.trajectories(config, normal, x["history_xyz"], x["history_rot"])
    controls = actions.controls_of(normal, config.unicycle)
    return {"actions": normal, "controls": controls, "trajectory_xyz": xyz, "trajectory_rot": rot}


def _prefix(x) -> Prefix:
    """The prefix of named arrays; what a stage does not read is None."""
    cache = Cache(x["prefix_k"], x["prefix_v"], heads_first=True)
    return Prefix(cache, x["length"], x.get("next_position"), x.get("hidden"), None)


def part(stage: str, params) -> dict:
    """Those parameters that a stage reads, as nested dicts; quantised kernels stay whole."""
    flat = trees.flatten(params, is_leaf=quantization.is_quantized)
    return trees.nest(
        {path: x for path, x in flat.items() if any(trees.matches(p, path) for p in WEIGHTS[stage])}
    )


def check(policy, sizes: Sizes) -> None:
    """ConfigError with everything about `sizes` that the policy cannot do."""
    unit = policy.config.model.vision.patch_size * policy.config.model.vision.spatial_merge_size
    counts = ("frames", "batch", "samples", "max_new_tokens", "flow_steps")
    given = {name: getattr(sizes, name) for name in counts}
    found = [f"{name}={value}: at least 1 is needed" for name, value in given.items() if value < 1]
    if sizes.height % unit or sizes.width % unit or min(sizes.height, sizes.width) < unit:
        found.append(f"height={sizes.height}, width={sizes.width}: multiples of {unit} are needed")
    if not sizes.cameras or list(sizes.cameras) != sorted(set(sizes.cameras)):
        found.append(f"cameras={list(sizes.cameras)}: ids in ascending order are needed")
    if sizes.integrator not in ("euler", "midpoint"):
        found.append(f"integrator={sizes.integrator!r} is not one of euler, midpoint")
    if not 0 <= sizes.top_k <= policy.config.ids.size:
        found.append(f"top_k={sizes.top_k}: 0 (none) to {policy.config.ids.size} are possible")
    if not found:
        need = len(layout(policy, sizes.cameras, sizes.frames, sizes.height, sizes.width).ids)
        if sizes.prompt_length < need:
            found.append(f"prompt_length={sizes.prompt_length}: these pictures make a prompt of {need} ids")
    errors.raise_all(found, "export", errors.ConfigError)


def sizes_of(policy, config) -> Sizes:
    """Sizes of a configuration (configs/export.py), zeros filled in: pictures of a 1920 x 1080 camera as the policy
    reads them, and the prompt's bucket."""
    from ar1_jax.images import patches

    names = [f.name for f in dataclasses.fields(Sizes)]
    values = {name: config[name] for name in names} | {"cameras": tuple(int(c) for c in config.cameras)}
    if not values["height"] and not values["width"]:
        found = patches.target_size(1080, 1920, policy.config.min_pixels, policy.config.max_pixels)
        values |= {"height": found[0], "width": found[1]}
    sizes = Sizes(**values)
    if not sizes.prompt_length:
        check(policy, dataclasses.replace(sizes, prompt_length=np.iinfo(np.int32).max))
        need = len(layout(policy, sizes.cameras, sizes.frames, sizes.height, sizes.width).ids)
        sizes = dataclasses.replace(sizes, prompt_length=-(-need // policies.BUCKET) * policies.BUCKET)
    check(policy, sizes)
    return sizes
