"""The training loop: reads batches, steps, validates, saves, stops; and continues exactly where it stopped.

What a run needs beyond arrays is `Progress`, plain numbers that lie in the checkpoint. A run is planned in steps, or
in minutes: then its length is measured, after a few steps and again at every validation, and the plan is saved with
the checkpoint, so that what comes after a checkpoint depends on the checkpoint alone until the next validation.
Random keys are `fold_in(key, step)`: nothing else is carried.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.core import errors
from ar1_jax.train import schedule

MEASURED = (5, 25)  # the first estimate of a run's length times these steps; the ones before compile
HOST_ONLY = ("seed", "family")  # parts of a batch that are for tables, not for the step


@dataclasses.dataclass(frozen=True)
class Settings:
    """rate: peak learning rate; cells: weight of the cell loss at the start and at the end (linear in the decay);

    minutes: time budget or None (then the plan's total counts); reserve: share of it kept for validation;
    validate_every: share of the run; log_every: steps; patience: steps in a row without a finite gradient.
    """

    rate: float
    cells: tuple[float, float] = (1.0, 0.3)
    minutes: float | None = None
    reserve: float = 0.12
    validate_every: float = 0.05
    log_every: int = 10
    patience: int = 5


@dataclasses.dataclass
class Progress:
    """Where a run stands: JSON through `to_dict` and `from_dict`. seconds: training and validation so far."""

    plan: schedule.Plan
    step: int = 0
    next_validation: int = 0
    data: dict = dataclasses.field(default_factory=lambda: {"next_index": 0})
    seconds: float = 0.0
    measured: bool = False
    best_loss: float = math.inf
    best_step: int = -1

    def to_dict(self):
        """Plain dict; infinities as None, which JSON can say."""
        plain = dataclasses.asdict(self)
        return plain | {"best_loss": None if math.isinf(self.best_loss) else self.best_loss}

    @classmethod
    def from_dict(cls, plain):
        """Inverse of `to_dict`."""
        best = math.inf if plain["best_loss"] is None else plain["best_loss"]
        return cls(**plain | {"plan": schedule.Plan(**plain["plan"]), "best_loss": best})


@dataclasses.dataclass(frozen=True)
class Parts:
    """The functions a run is made of.

    step(state, batch, knobs, key) -> state, metrics (scalars on device; "loss", "finite" and "stuck" among them);
    validate(state, step) -> {name: float}, "loss" among them; save(state, progress, best) writes a checkpoint;
    log(step, {name: float}); stop() -> True once the process was asked to end; batches: iterator with get_state.
    """

    step: Callable
    validate: Callable
    save: Callable
    log: Callable
    stop: Callable
    batches: Any


def knobs(settings, plan, step):
    """The scalars that change during a run, as float32 arrays: learning rate and weight of the cell loss."""
    share = plan.decay(step) if step >= plan.warmup else 0.0
    cells = settings.cells[0] + (settings.cells[1] - settings.cells[0]) * share
    return {"rate": jnp.float32(settings.rate * plan.factor(step)), "cells": jnp.float32(cells)}


class Clock:
    """Time of a run: adds what passes to `progress.seconds`, and times the steps since a mark."""

    def __init__(self, progress):
        self.progress, self.last = progress, time.monotonic()
        self.marks = {}

    def seconds(self):
        """Seconds of the run so far, brought up to date in progress."""
        now = time.monotonic()
        self.progress.seconds, self.last = self.progress.seconds + now - self.last, now
        return self.progress.seconds

    def mark(self, name):
        """Seconds a step since the last mark of this name (None at the first), and a new mark here."""
        now, old = (self.seconds(), self.progress.step), self.marks.get(name)
        self.marks[name] = now
        return None if old is None or old[1] == now[1] else (now[0] - old[0]) / (now[1] - old[1])


def fit(state, progress, parts, settings, key):
    """Runs from `progress.step` to the plan's end or until asked to stop -> state, progress.

    Validates and saves every `validate_every` of the run and at its end; saves when stopped.
    Raises CheckFailed when the gradient is not finite for `patience` steps in a row: the last checkpoint is good.
    """
    clock, pending = Clock(progress), []
    parts.batches.set_state(progress.data)
    progress.next_validation = progress.next_validation or next_validation(settings, progress)
    clock.mark("log")
    while progress.step < progress.plan.total and not parts.stop():
        step = progress.step
        batch = {name: value for name, value in next(parts.batches).items() if name not in HOST_ONLY}
        state, metrics = parts.step(
            state, batch, knobs(settings, progress.plan, step), jax.random.fold_in(key, step)
        )
        pending.append(metrics)
        progress.step, progress.data = step + 1, parts.batches.get_state()
        if settings.minutes and not progress.measured and progress.step in MEASURED:
            jax.block_until_ready(metrics)
            first_plan(progress, settings, clock)
        last = progress.step == progress.plan.total
        if last or progress.step % settings.log_every == 0:
            parts.log(progress.step, summary(pending, settings, progress, len(batch["seen"]), clock))
            pending = []
        if last or progress.step >= progress.next_validation:
            validate_and_save(state, progress, parts, settings, clock)
    if progress.step < progress.plan.total:
        clock.seconds()
        parts.save(state, progress, False)
    return state, progress


def next_validation(settings, progress):
    """Step of the next validation."""
    return progress.step + max(round(settings.validate_every * progress.plan.total), 1)


def first_plan(progress, settings, clock):
    """At the second of the two MEASURED steps: the length that fits into the budget, a share kept for validation."""
    per_step = clock.mark("plan")
    if per_step is not None:
        left = (60.0 * settings.minutes - clock.seconds()) * (1.0 - settings.reserve)
        replan(progress, left / per_step)
        progress.measured = True
        progress.next_validation = next_validation(settings, progress)


def replan(progress, more):
    """Lets the plan end `more` steps from here, but not within the warm-up."""
    total = max(progress.step + int(more), progress.plan.warmup + 1, progress.step + 1)
    progress.plan = progress.plan.revise(progress.step, total)


def summary(pending, settings, progress, batch_size, clock):
    """Means of the metrics since the last call, rate and speed; CheckFailed when training is stuck."""
    means = {name: float(np.mean([float(m[name]) for m in pending])) for name in pending[0]}
    if float(pending[-1]["stuck"]) >= settings.patience:
        raise errors.CheckFailed(
            f"training: {settings.patience} steps in a row without a finite gradient, up to step {progress.step}; "
            "none of them was applied and the last checkpoint is good (try a smaller rate)"
        )
    speed = batch_size / max(clock.mark("log"), 1e-9)
    rate = settings.rate * progress.plan.factor(progress.step - 1)
    return {"samples": progress.step * batch_size, "samples_per_second": speed, "rate": rate} | means


def validate_and_save(state, progress, parts, settings, clock):
    """Validation, then the plan's revision from measured times (a run in minutes), then the checkpoint."""
    jax.block_until_ready(state)
    per_step, began = clock.mark("plan"), clock.seconds()
    found = parts.validate(state, progress.step)
    took = clock.seconds() - began
    best = found["loss"] < progress.best_loss
    if best:
        progress.best_loss, progress.best_step = found["loss"], progress.step
    parts.log(progress.step, {f"validation/{name}": value for name, value in found.items()})
    if settings.minutes and per_step is not None and progress.step < progress.plan.total:
        validations = math.ceil(
            (progress.plan.total - progress.step) / (settings.validate_every * progress.plan.total)
        )
        replan(progress, (60.0 * settings.minutes - clock.seconds() - validations * took) / per_step)
    progress.next_validation = next_validation(settings, progress)
    parts.save(state, progress, best)
    for name in ("plan", "log"):  # validation and saving are no training time
        clock.mark(name)
