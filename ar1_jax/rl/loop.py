"""The RL loop: scenes of the step, rollouts, rewards, updates, log; saved and resumed bit for bit.

Everything a step needs follows from its number: its scenes (a range of seeds), its keys (fold_in of the run's
key), its rate. The checkpoint holds parameters, optimiser state and that number. Pictures are rendered ahead
in a thread.
"""

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core import errors
from ar1_jax.rl import advantages, rollout


@dataclasses.dataclass(frozen=True)
class Settings:
    """steps of the run; scenes a step; updates a step on the same rollouts; rate: peak; warmup: steps; floor:
    share of the rate at the end; save_every, validate_every, log_every: steps (0 = never, except at the
    end)."""

    steps: int
    scenes: int
    rate: float
    warmup: int = 5
    floor: float = 0.1
    updates: int = 1
    save_every: int = 25
    validate_every: int = 50
    log_every: int = 1

    def rate_at(self, step):
        """Linear warm-up, then a cosine to the floor."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))


@dataclasses.dataclass(frozen=True)
class Parts:
    """The functions of a run. scenes(step) -> world batch; sample(params, batch, keys) -> Rollout; judge(ids,
    complete, batch) -> Verdict, texts; reference(prompt, ids) -> log_prob; update(state, rollout,
    ref_log_prob, rate) -> state, metrics; validate(params) -> {name: float}; save(state, step); log(step,
    {name: float}); stop() -> bool."""

    scenes: Callable
    sample: Callable
    judge: Callable
    reference: Callable
    update: Callable
    validate: Callable
    save: Callable
    log: Callable
    stop: Callable


class Ahead:
    """make(step) computed in a thread while the step before it runs. Close it, or use it in a `with`."""

    def __init__(self, make, start, end):
        self.make, self.end = make, end
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.waiting = {start: self.pool.submit(make, start)} if start < end else {}

    def __call__(self, step):
        """The result of make(step); the next step's is started."""
        found = self.waiting.pop(step)
        if step + 1 < self.end:
            self.waiting[step + 1] = self.pool.submit(self.make, step + 1)
        return found.result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown(wait=True, cancel_futures=True)


def fit(state, start, parts, settings, key):
    """Runs steps `start` .. `settings.steps` or until asked to stop -> state, number of finished steps.

    Saves every `save_every` steps, at the end and when stopped. Raises CheckFailed, naming the step, where a
    reward or a gradient is not finite: nothing of that step was applied and the last checkpoint is good.
    """
    step = start
    with Ahead(parts.scenes, start, settings.steps) as scenes:
        while step < settings.steps and not parts.stop():
            began = time.monotonic()
            state, metrics = one_step(
                state, step, scenes(step), parts, settings, jax.random.fold_in(key, step)
            )
            step += 1
            last = step == settings.steps
            metrics["seconds"] = time.monotonic() - began
            metrics["completions_per_second"] = metrics.pop("completions") / metrics["seconds"]
            if last or settings.validate_every and step % settings.validate_every == 0:
                metrics |= {
                    f"validation/{name}": value for name, value in parts.validate(state.params).items()
                }
            parts.log(step, metrics)
            if last or settings.save_every and step % settings.save_every == 0:
                parts.save(state, step)
    if step < settings.steps and step > start:
        parts.save(state, step)
    return state, step


def one_step(state, step, batch, parts, settings, key):
    """One batch of scenes: sampled, judged, learned from. -> state, {name: float}."""
    keys = rollout.scene_keys(key, batch["seed"].astype(np.uint32))
    drawn = parts.sample(state.params, batch, keys)
    verdict, _ = parts.judge(drawn.ids, drawn.complete, batch)
    rewards = np.asarray(verdict.reward)
    guard(np.isfinite(rewards).all(), step, "a reward")
    drawn = drawn.replace(rewards=jnp.asarray(rewards))
    ref_log_prob = parts.reference(drawn.prompt, drawn.ids)
    rate, first = jnp.float32(settings.rate_at(step)), None
    for _ in range(settings.updates):
        state, metrics = parts.update(state, drawn, ref_log_prob, rate)
        first = metrics if first is None else first
    guard(float(metrics["finite"]) > 0 and float(first["finite"]) > 0, step, "the gradient")
    found = {name: float(value) for name, value in metrics.items() if name != "finite"}
    found |= {
        name: float(first[name]) for name in ("gap", "gap_max")
    }  # before the first update: equal weights
    return state, summary(drawn, verdict) | found | {"rate": float(rate), "completions": rewards.size}


def guard(holds, step, what):
    """CheckFailed that names the step unless `holds`."""
    if not holds:
        raise errors.CheckFailed(
            f"step {step + 1}: {what} is not finite; the step was not applied and the last checkpoint is good"
        )


def summary(drawn, verdict):
    """Means of a batch for the log: reward, its parts, lengths, groups that teach nothing."""
    rewards = np.asarray(verdict.reward)
    valid = np.asarray(verdict.outcome.valid)
    over_valid = lambda x: float(np.asarray(x)[valid].mean()) if valid.any() else math.nan
    counted = {name: over_valid(value) for name, value in verdict.parts.items() if name != "valid"}
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(-1).mean()),
        "invalid": float(1 - valid.mean()),
        "length": float(np.asarray(drawn.mask).sum(-1).mean()),
        "zero_variance": float(1 - np.asarray(advantages.active_groups(rewards)).mean()),
    } | counted
