"""What a policy answers on many scenes, and what the answers are worth against the truth.

n scenes, K samples, W = 64 waypoints. Every control uses the same scenes and keys: "true" pictures, "shuffled" ones
(of another scene) and "none" (grey). Decisions and trajectories come from one greedy completion a scene; the flow
decoder reads its reasoning. Errors are distances in the ground plane, metres (open loop, the paper's E1).
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from ar1_jax.data import augment
from ar1_jax.models import alpamayo
from ar1_jax.policy import decoding, prompts, sampling
from ar1_jax.policy import policy as policies
from ar1_jax.text import coc

MODES = {"true": lambda images: images, "shuffled": augment.shuffled, "none": augment.without_images}
FLOW_STEPS = 10


class Answers(NamedTuple):
    """Of n scenes: texts (n strings); longitudinal, lateral i32 [n] (-1 = unreadable); complete bool [n]; trajectories

    f32 [n, K, 64, 3] of the token decoder and of the flow (K = 1 greedy), valid bool [n, K] of the former.
    """

    texts: list[str]
    longitudinal: np.ndarray
    lateral: np.ndarray
    complete: np.ndarray
    tokens: np.ndarray
    flow: np.ndarray
    valid: np.ndarray


def answer_batch(policy, layout, images, history, key, samples, temperature):
    """One batch of B scenes -> ids i32 [B, K, L], complete [B, K], xyz by tokens, xyz by flow [B, K, 64, 3], valid."""
    config, rules = policy.config, policy.config.grammar("tokens")
    prefix = prefill(config, layout, policy.weights, images, *history)
    keys = jax.random.split(key, len(images))
    greedy = temperature == 0
    done = sampling.sample(
        config.model, rules, policy.weights, prefix, keys, samples=samples, length=rules.length,
        temperature=1.0 if greedy else temperature, greedy=greedy, top_p=None if greedy else 0.98,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.fold_in(key, 1), (len(images), samples, config.model.actions, 2))
    length, start = policies.trigger_state(rules, prefix, done)
    normal = policies.flow(
        config,
        policy.weights,
        prefix,
        done.suffix,
        length,
        start,
        noise,
        steps=FLOW_STEPS,
        integrator="euler",
    )
    by_flow, _ = policies.trajectories(config, normal, *history)
    by_tokens, _, valid = token_trajectories(config, done.ids, *history)
    return done.ids, done.complete, by_tokens, by_flow, valid


@functools.partial(jax.jit, static_argnums=(0, 1))
def prefill(config, layout, params, images, history_xyz, history_rot):
    """Pictures and histories -> the prefix."""
    return alpamayo.prefill(
        config.model, params, prompts.encode_batch(config, layout, images, history_xyz, history_rot)
    )


token_trajectories = jax.jit(decoding.token_trajectories, static_argnums=0)


def answers(policy, layout, samples, mode="true", *, batch=64, key, count=1, temperature=0.0):
    """Answers of the policy on a sample batch (data/samples.py) seen in one of MODES, `batch` scenes at a time.

    count: K completions a scene at `temperature` (0 = greedy). The last batch is filled up with the first scenes.
    """
    n = len(samples["ids"])
    shown = MODES[mode](samples["images"])
    parts = []
    for number, first in enumerate(range(0, n, batch)):
        rows = np.arange(first, first + batch) % n
        history = (samples["ego_history_xyz"][rows], samples["ego_history_rot"][rows])
        out = answer_batch(
            policy, layout, shown[rows], history, jax.random.fold_in(key, number), count, temperature
        )
        parts.append(jax.device_get(out))
    ids, complete, tokens, flow, valid = (np.concatenate(part)[:n] for part in zip(*parts, strict=True))
    texts = decoding.reasonings(policy.config, policy.vocabulary, ids[:, 0])
    parsed = coc.parse_batch(texts)
    return Answers(texts, parsed.longitudinal, parsed.lateral, complete[:, 0], tokens, flow, valid)


def true_texts(policy, samples):
    """The reasoning that the world wrote for each scene, n strings."""
    return decoding.reasonings(policy.config, policy.vocabulary, samples["ids"])


def displacement(trajectories, future):
    """Mean and final distance in the ground plane: xyz [n, K, 64, 3], future [n, 64, 3] -> two f64 [n, K], metres."""
    gap = np.asarray(trajectories, np.float64)[..., :2] - np.asarray(future, np.float64)[:, None, :, :2]
    distance = np.linalg.norm(gap, axis=-1)
    return distance.mean(-1), distance[..., -1]
