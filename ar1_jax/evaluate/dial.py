"""The dial between time and quality: flow steps and integrator, with the reasoning written out or left out.

n scenes, K samples, W = 64 waypoints. Every setting starts from the same noise, and all that reason read the same
greedy reasoning, so that trajectories differ by the setting alone. "Direct" plans close the reasoning before its first
word. Distances in the ground plane, metres; times in milliseconds.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core.types import Scene
from ar1_jax.evaluate import bootstrap, open_loop
from ar1_jax.policy import policy as policies
from ar1_jax.policy import sampling


class Setting(NamedTuple):
    """One position of the dial. direct: without reasoning."""

    steps: int
    integrator: str = "euler"
    direct: bool = False

    @property
    def evaluations(self) -> int:
        """How often the expert is asked."""
        return self.steps * (2 if self.integrator == "midpoint" else 1)

    def __str__(self) -> str:
        return f"{self.integrator}, {self.steps} {'step' if self.steps == 1 else 'steps'}{', direct' * self.direct}"


DEFAULT, LIMIT = Setting(10), Setting(100)  # what `plan` does, and what the steps converge to


class Row(NamedTuple):
    """What one setting costs and gives. plan, flow: (median, lower, upper quartile) ms of a whole plan and of its flow;
    default, limit: (mean, largest) distance from the trajectories of DEFAULT and LIMIT, m; ade: Interval, m; change:
    Interval of the ADE minus that of DEFAULT, scene by scene."""

    plan: tuple[float, float, float]
    flow: tuple[float, float, float]
    default: tuple[float, float]
    limit: tuple[float, float]
    ade: bootstrap.Interval
    change: bootstrap.Interval


def settings(steps: Sequence[int], integrators: Sequence[str], direct: Sequence[int]) -> list[Setting]:
    """Every pair of steps and integrator, then direct plans with so many Euler steps."""
    both = [Setting(int(n), name) for name in integrators for n in steps]
    return both + [Setting(int(n), "euler", True) for n in direct]


def completed(policy, prefix, keys, samples: int, direct: bool, greedy: bool = True):
    """Completions behind a prefix: reasoned, or closed at once where `direct`."""
    rules = policy.config.grammar("flow")
    length, forced = rules.length if rules.strict else 256, None
    if direct:
        ids = policy.config.ids
        forced = jnp.full(length, -1, jnp.int32).at[:2].set(jnp.array([ids.cot_end, ids.future_start]))
    done = sampling.sample(
        policy.config.model, rules, policy.weights, prefix, keys, samples=samples, length=length, forced=forced,
        temperature=1.0 if greedy else 0.6, greedy=greedy, top_p=None if greedy else 0.98,
    )  # fmt: skip
    return done, *policies.trigger_state(rules, prefix, done)


def integrate(policy, prefix, behind, noise, setting: Setting):
    """Normalised actions [B, K, A, 2] of a setting; behind: what `completed` gave; noise: on the host, as `flow` takes
    the device's for its own."""
    done, length, start = behind
    return policies.flow(
        policy.config, policy.weights, prefix, done.suffix, length, start, noise, steps=setting.steps,
        integrator=setting.integrator,
    )  # fmt: skip


def trajectories(policy, layout, samples, wanted: Sequence[Setting], *, batch: int, key) -> dict:
    """{setting: f32 [n, 64, 3]} of one greedy plan a scene; samples: of data/samples.py, `batch` scenes at a time."""
    n, parts = len(samples["ids"]), {setting: [] for setting in wanted}
    for number, first in enumerate(range(0, n, batch)):
        rows = np.arange(first, first + batch) % n
        history = (samples["ego_history_xyz"][rows], samples["ego_history_rot"][rows])
        prefix = open_loop.prefill(policy.config, layout, policy.weights, samples["images"][rows], *history)
        keys = jax.random.split(jax.random.fold_in(key, number), batch)
        noise = np.asarray(
            jax.vmap(lambda k: jax.random.normal(k, (1, policy.config.model.actions, 2)))(keys)
        )
        behind = {direct: completed(policy, prefix, keys, 1, direct) for direct in {s.direct for s in wanted}}
        for setting in wanted:
            normal = integrate(policy, prefix, behind[setting.direct], noise, setting)
            xyz, _ = policies.trajectories(policy.config, normal, *history)
            parts[setting].append(np.asarray(xyz[:, 0]))
    return {setting: np.concatenate(part)[:n] for setting, part in parts.items()}


def interleaved(calls: Mapping[object, Callable], repeats: int) -> dict:
    """{name: (median, lower, upper quartile) ms}: each call once to compile, then all in turn `repeats` times, so that
    what else the machine does meets all of them alike."""
    taken = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: tuple(float(q) for q in np.percentile(ms, (50, 25, 75))) for name, ms in taken.items()}


def times(policy, scene: Scene, layout, wanted: Sequence[Setting], *, samples: int, repeats: int, key):
    """Two dicts {setting: (median, quartiles) ms}: plans of one scene with K = `samples`, and their flow alone."""
    keys, history = key[None], (scene.ego_history_xyz[None], scene.ego_history_rot[None])
    prefix = open_loop.prefill(policy.config, layout, policy.weights, scene.images[None], *history)
    behind = {
        d: completed(policy, prefix, keys, samples, d, greedy=False) for d in {s.direct for s in wanted}
    }
    noise = np.asarray(jax.random.normal(key, (1, samples, policy.config.model.actions, 2)))
    flow = lambda s: lambda: integrate(policy, prefix, behind[s.direct], noise, s)
    plan = lambda s: lambda: policy.plan(
        scene, samples=samples, key=key, flow_steps=s.steps, integrator=s.integrator,
        reasoning="" if s.direct else None,
    ).trajectory_xyz  # fmt: skip
    whole = interleaved({s: plan(s) for s in wanted}, repeats)
    return whole, interleaved({s: flow(s) for s in wanted}, repeats)


def gap(a, b) -> tuple[float, float]:
    """Mean and largest distance in the ground plane of trajectories [n, 64, 3], metres."""
    distance = np.linalg.norm(
        np.asarray(a, np.float64)[..., :2] - np.asarray(b, np.float64)[..., :2], axis=-1
    )
    return float(distance.mean()), float(distance.max())


def table(
    policy, layout, samples, wanted, scene, *, batch: int, count: int, repeats: int, key, seed: int = 0
):
    """{setting: Row}; scene: whose plans of `count` samples are timed, `repeats` times; seed: of the bootstrap."""
    paths = trajectories(policy, layout, samples, list({*wanted, DEFAULT, LIMIT}), batch=batch, key=key)
    whole, flow = times(policy, scene, layout, wanted, samples=count, repeats=repeats, key=key)
    draws = bootstrap.resamples(len(samples["ids"]), seed)
    ade = {
        s: open_loop.displacement(xyz[:, None], samples["ego_future_xyz"])[0][:, 0]
        for s, xyz in paths.items()
    }
    return {
        s: Row(
            whole[s], flow[s], gap(paths[s], paths[DEFAULT]), gap(paths[s], paths[LIMIT]),
            bootstrap.mean(ade[s], draws), bootstrap.mean(ade[s] - ade[DEFAULT], draws),
        )
        for s in wanted
    }  # fmt: skip


def markdown(rows: Mapping[Setting, Row]) -> str:
    """The table as Markdown."""
    head = ("setting", "expert calls", "plan, ms", "flow, ms", f"from {DEFAULT}: mean, max, m",
            f"from {LIMIT}: mean, max, m", "ADE 6.4 s, m", f"ADE minus that of {DEFAULT}, m")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for s, row in rows.items():
        spread = lambda t: f"{t[0]:.1f} ({t[1]:.1f} to {t[2]:.1f})"
        interval = lambda i, sign="": f"{i.value:{sign}.3f} ({i.low:{sign}.3f} to {i.high:{sign}.3f})"
        cells = (str(s), str(s.evaluations), spread(row.plan), spread(row.flow), f"{row.default[0]:.3f}, "
                 f"{row.default[1]:.2f}", f"{row.limit[0]:.3f}, {row.limit[1]:.2f}", interval(row.ade),
                 interval(row.change, "+"))  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_json(rows: Mapping[Setting, Row], about: Mapping) -> str:
    """The same as JSON text."""
    plain = [{**s._asdict(), **{n: list(v) for n, v in row._asdict().items()}} for s, row in rows.items()]
    return json.dumps({"about": dict(about), "rows": plain}, indent=1) + "\n"


def points(rows: Mapping[Setting, Row]) -> list[dict]:
    """What the figure shows of each row (figures/dial.py)."""
    group = lambda s: f"{s.integrator}, {'direct' if s.direct else 'with reasoning'}"
    return [
        {"group": group(s), "label": str(s.steps), "plan_ms": row.plan, "flow_ms": row.flow, "ade": tuple(row.ade),
         "gap": row.limit[0]}
        for s, row in rows.items()
    ]  # fmt: skip
