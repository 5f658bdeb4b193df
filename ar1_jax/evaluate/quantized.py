"""What eight-bit weights change: memory, time, log-probabilities, trajectories, and their worth on held-out scenes.

n scenes, L ids, W = 64 waypoints. Both policies see the same scenes, keys and noise; differences are taken scene by
scene, so that their intervals hold the change and not the spread between scenes. Metres, nats, percent, milliseconds.
"""

import functools
import json

import jax
import numpy as np

from ar1_jax.core import trees
from ar1_jax.evaluate import bootstrap, dial, open_loop, workload
from ar1_jax.models import alpamayo
from ar1_jax.models import grammar as grammars
from ar1_jax.policy import loading, quantization

COLUMNS = {
    "decision": "both decisions right, %",
    "text": "reasoning word for word, %",
    "tokens": "ADE by tokens, m",
    "flow": "ADE by flow, m",
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def log_probs(config, layout, rules, params, images, history_xyz, history_rot, ids):
    """Log-probability float32 [B, L] of given completions ids [B, L] under the grammar, nats."""
    prefix = open_loop.prefill(config, layout, params, images, history_xyz, history_rot)
    hidden = alpamayo.completion_hidden(config.model, params, prefix, ids[:, None])[:, 0]
    allowed = grammars.allowed(rules, ids)
    return alpamayo.token_log_prob(params, hidden, ids, allowed, kernels=config.model.kernels)[0]


def token_gap(policies, layout, samples, batch: int):
    """Differences of the log-probabilities of the true completions between two policies: f32 [tokens], nats.

    Ids that the grammar forces are left out: both give them 0."""
    config, ids = policies[0].config, np.asarray(samples["ids"])
    rules = config.grammar("tokens")
    parts = [[], []]
    for first in range(0, len(ids), batch):
        rows = np.arange(first, first + batch) % len(ids)
        given = [samples[name][rows] for name in ("images", "ego_history_xyz", "ego_history_rot")]
        for part, policy in zip(parts, policies, strict=True):
            part.append(np.asarray(log_probs(config, layout, rules, policy.weights, *given, ids[rows])))
    a, b = (np.concatenate(part)[: len(ids)] for part in parts)
    allowed = np.asarray(grammars.allowed(rules, ids))
    free = np.asarray(grammars.mask(rules, ids)) & (allowed[..., 1] - allowed[..., 0] != 1)
    return (b - a)[free]


def scores(policy, layout, samples, *, batch: int, key):
    """Greedy answers of a policy, and their worth a scene: {column: f64 [n]}."""
    answers = open_loop.answers(policy, layout, samples, batch=batch, key=key)
    right = (answers.longitudinal == samples["longitudinal"]) & (answers.lateral == samples["lateral"])
    same = [
        got == want for got, want in zip(answers.texts, open_loop.true_texts(policy, samples), strict=True)
    ]
    ade = lambda xyz: open_loop.displacement(xyz, samples["ego_future_xyz"])[0][:, 0]
    worth = {"decision": 100.0 * right, "text": 100.0 * np.array(same), "tokens": ade(answers.tokens),
             "flow": ade(answers.flow)}  # fmt: skip
    return answers, worth


def table(
    plain, rounded, layout, samples, scene, *, batch: int, count: int, repeats: int, key, seed: int = 0
) -> dict:
    """Everything the comparison found, as plain numbers and intervals; scene: whose plans of K = `count` are timed."""
    pair = (plain, rounded)
    (a, before), (b, after) = (scores(p, layout, samples, batch=batch, key=key) for p in pair)
    draws = bootstrap.resamples(len(samples["ids"]), seed)
    worth = {
        name: [bootstrap.mean(x, draws) for x in (before[name], after[name], after[name] - before[name])]
        for name in COLUMNS
    }
    tokens = np.abs(token_gap(pair, layout, samples, batch))
    said = np.array([x == y for x, y in zip(a.texts, b.texts, strict=True)])
    plan = lambda p: lambda: p.plan(scene, samples=count, key=key).trajectory_xyz
    ms = dial.interleaved({0: plan(plain), 1: plan(rounded)}, repeats)
    return {
        "worth": worth, "bytes": [trees.num_bytes(p.params) for p in pair], "ms": [ms[0], ms[1]],
        "token_log_prob": {"mean": float(tokens.mean()), "p99": float(np.percentile(tokens, 99)),
                           "max": float(tokens.max()), "tokens": len(tokens)},
        "gap": dict(zip(("mean", "max"), dial.gap(a.flow, b.flow), strict=True)),
        "gap_same_text": dict(zip(("mean", "max"), dial.gap(a.flow[said], b.flow[said]), strict=True)),
        "same_text": float(100 * said.mean()),
    }  # fmt: skip


def size_bytes(name: str) -> tuple[int, int]:
    """Bytes of the parameters of a size (policy/sizes.py) in bfloat16, and with its kernels in eight bits; computed."""
    model, _ = workload.model_of(workload.Workload(size=name))
    flat = trees.flatten(loading.shapes(model))
    kernels = [x for path, x in flat.items() if quantization.matches(path)]
    plain = 2 * sum(x.size for x in flat.values())
    return plain, plain - sum(x.size for x in kernels) + 2 * sum(x.size // x.shape[-2] for x in kernels)


def markdown(found: dict, kind: str) -> str:
    """The comparison as Markdown."""
    show = lambda i, sign="": f"{i.value:{sign}.2f} ({i.low:{sign}.2f} to {i.high:{sign}.2f})"
    lines = [f"| | as loaded | {kind} | difference, scene by scene |", "|---|---|---|---|"]
    for name, (a, b, change) in found["worth"].items():
        lines.append(f"| {COLUMNS[name]} | {show(a)} | {show(b)} | {show(change, '+')} |")
    a, b = found["bytes"]
    lines.append(f"| weights, bytes | {a:,} | {b:,} | x {b / a:.2f} |")
    (a, *_), (b, *_) = found["ms"]
    lines.append(f"| a plan, ms (median) | {a:.1f} | {b:.1f} | x {b / a:.2f} |")
    a, b = size_bytes("10b")
    lines.append(f"| weights of `10b`, GB (computed) | {a / 1e9:.1f} | {b / 1e9:.1f} | x {b / a:.2f} |")
    t, g, s = found["token_log_prob"], found["gap"], found["gap_same_text"]
    return "\n".join([
        *lines, "",
        f"Log-probabilities of the true ids, {t['tokens']:,} tokens, absolute difference in nats: mean "
        f"{t['mean']:.4f}, 99th percentile {t['p99']:.3f}, largest {t['max']:.3f}. Greedy reasonings equal in "
        f"{found['same_text']:.1f} % of scenes. Flow trajectories, same noise, distance in the ground plane: mean "
        f"{g['mean']:.3f} m, largest {g['max']:.2f} m; where the reasonings are equal {s['mean']:.3f} m and "
        f"{s['max']:.2f} m.",
    ]) + "\n"  # fmt: skip


def to_json(found: dict, about: dict) -> str:
    """The same as JSON text."""
    return json.dumps({"about": about, **found}, indent=1) + "\n"
