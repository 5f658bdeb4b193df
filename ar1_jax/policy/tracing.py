"""Named intermediates of one teacher-forced pass, for parity with the reference.

B scenes, K samples, L padded prompt length, n longest completion, S = L + n. Inside, rows are right-padded; what comes
out is laid out as the reference has it: prompts left-padded to one length, completions right-padded.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core.types import Scene
from ar1_jax.models import alpamayo, expert
from ar1_jax.models.alpamayo import Prompt
from ar1_jax.models.decoder import Past
from ar1_jax.policy import prompts
from ar1_jax.policy.config import PolicyConfig
from ar1_jax.policy.policy import Policy, trajectories


def _append(prompt: Prompt, completions: Sequence[Sequence[int]], pad: int) -> Prompt:
    """Prompt + completion of each row as one right-padded prompt."""
    ids, positions, index = (
        np.asarray(x) for x in (prompt.input_ids, prompt.position_ids, prompt.image_index)
    )
    size = max(int(n) + len(c) for n, c in zip(prompt.length, completions, strict=True))
    size = max(size, int(prompt.length.max()) + max(map(len, completions)))
    widen = lambda x, value: np.pad(
        x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])], constant_values=value
    )
    ids, positions, index = widen(ids, pad), widen(positions, 0).copy(), widen(index, -1)
    ids = ids.copy()
    for row, (n, completion) in enumerate(zip(np.asarray(prompt.length), completions, strict=True)):
        ids[row, n : n + len(completion)] = completion
        positions[:, row, n:] = int(prompt.next_position[row]) + np.arange(size - n)
    lengths = [int(n) + len(c) for n, c in zip(prompt.length, completions, strict=True)]
    return prompt.replace(
        input_ids=jnp.asarray(ids), position_ids=jnp.asarray(positions), image_index=jnp.asarray(index),
        length=jnp.asarray(lengths, jnp.int32),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("config",))
def _read(config: PolicyConfig, params, prompt: Prompt):
    return alpamayo.read(config.model, params, prompt, trace=True)


@functools.partial(jax.jit, static_argnames=("config",))
def _velocity(config: PolicyConfig, params, cache, length, start, x, tau):
    past = Past(cache, length)
    at = lambda t: expert.velocity(config.model, params, x, jnp.full(x.shape[:2], t), past, start)
    return jax.lax.map(at, tau)


@functools.partial(jax.jit, static_argnames=("config",))
def _flow(config: PolicyConfig, params, pasts, starts, weights, noise):
    def field(x, tau):
        return sum(w * expert.velocity(config.model, params, x, tau, past, start)
                   for w, past, start in zip(weights, pasts, starts, strict=True))  # fmt: skip

    return expert.integrate(field, noise, 10)[1]


def trace(
    policy: Policy, scenes, completion_ids: Sequence[Sequence[int]], noise, times: Sequence[float],
    guidance: float | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Everything the reference can be compared in, for scenes (one or B) and their given completions.

    completion_ids: B lists that end in <|traj_future_start|>; noise: float32 [B, K, A, 2]; times: flow times for
    `velocity`; guidance: weight of route guidance. Keys and shapes are those of the goldens' README, section 3.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    config, params = policy.config, policy.params
    encoded = [prompts.encode_scene(config, policy.templates, scene) for scene in scenes]
    prompt = prompts.batch(config, encoded)
    whole = _append(prompt, completion_ids, config.ids.pad)
    hidden, cache, _, named = _read(config, params, whole)
    lengths, n = np.asarray(prompt.length), max(map(len, completion_ids))
    padded = int(lengths.max())
    left = padded - lengths
    gather = lambda x, axis: _shift(np.asarray(x), left, axis, padded + n)
    last = lengths[:, None] - 1 + np.arange(n + 1)
    states = jnp.take_along_axis(hidden, jnp.asarray(last)[..., None], axis=1)
    samples = noise.shape[1]
    start = jnp.asarray(
        [[int(p) + len(c)] * samples for p, c in zip(prompt.next_position, completion_ids, strict=True)]
    )
    past = Past(cache, whole.length)
    noise = jnp.asarray(noise, jnp.float32)
    tau = jnp.asarray(times, jnp.float32)
    out = {
        "input_ids": np.where(np.arange(padded) >= left[:, None], _shift(np.asarray(prompt.input_ids), left, 1, padded),
                              config.ids.pad),
        "attention_mask": (np.arange(padded) >= left[:, None]).astype(np.int32),
        "pixel_values": np.concatenate([e.pixels.reshape(-1, e.pixels.shape[-1]) for e in encoded]),
        "image_grid_thw": np.asarray([(1, *grid) for e in encoded for grid in e.template.grids]),
        "position_ids": gather(whole.position_ids, 2),
        "rope_deltas": np.asarray(prompt.next_position)[:, None] - padded,
        "hidden_states": gather(named["hidden_states"], 2),
        "logits": np.asarray(alpamayo.logits(params, states)),
        "kv_keys": gather(jnp.moveaxis(cache.k, 3, 2), 3), "kv_values": gather(jnp.moveaxis(cache.v, 3, 2), 3),
        "velocity": np.asarray(_velocity(config, params, cache, whole.length, start, noise, tau)),
        **_by_scene(config, encoded, prompt, named),
    }  # fmt: skip
    pasts, starts, weights = (past,), (start,), (1.0,)
    if guidance is None:
        expert_positions = np.asarray(start)[..., None] + np.arange(noise.shape[2])
        out["expert_position_ids"] = np.broadcast_to(expert_positions, (3, *expert_positions.shape))
    else:
        bare = [prompts.Encoded(prompts.drop_route(config, e.template), e.pixels, e.history) for e in encoded]
        other = prompts.batch(config, bare)
        other_whole = _append(other, completion_ids, config.ids.pad)
        _, other_cache, _, _ = _read(config, params, other_whole)
        other_start = start + jnp.asarray(other.next_position - prompt.next_position)[:, None]
        free = _velocity(config, params, other_cache, other_whole.length, other_start, noise, tau)
        out["velocity_unguided"] = np.asarray(free)
        out["velocity_guided"] = (1 - guidance) * out["velocity_unguided"] + guidance * out["velocity"]
        pasts, starts = (past, Past(other_cache, other_whole.length)), (start, other_start)
        weights = (guidance, 1.0 - guidance)
    steps = _flow(config, params, pasts, starts, weights, noise)
    history = [jnp.asarray(np.stack([np.asarray(getattr(s, key), np.float32) for s in scenes]))
               for key in ("ego_history_xyz", "ego_history_rot")]  # fmt: skip
    xyz, rot = trajectories(config, steps[-1], *history)
    out.update(flow_steps=np.moveaxis(np.asarray(steps), 0, 2), actions=np.asarray(steps[-1]),
               trajectory_xyz=np.asarray(xyz), trajectory_rot=np.asarray(rot))  # fmt: skip
    return out


def _shift(x: np.ndarray, left: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Rows (the axis before `axis`) moved right by `left`, cut or repeated at the edges to `size` entries."""
    index = np.clip(np.arange(size) - left[:, None], 0, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis - 1 if axis != 3 else 1], shape[axis] = index.shape[0], size
    return np.take_along_axis(x, index.reshape(shape), axis=axis)


def _by_scene(config: PolicyConfig, encoded, prompt: Prompt, named) -> dict[str, np.ndarray]:
    """Image features in the order of the scenes' images (inside they are grouped by grid)."""
    index = np.asarray(prompt.image_index)
    order = np.concatenate([row[row >= 0] for row in index])
    return {
        "vision_embeds": np.asarray(named["vision_embeds"])[order],
        "deepstack_embeds": np.asarray(named["deepstack_embeds"])[:, order],
    }
