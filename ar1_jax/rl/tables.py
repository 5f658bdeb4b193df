"""Before and after, on the same scenes: means with bootstrap intervals, the change paired scene by scene.

n scenes. Evaluations are {name: float32 [n]} of evaluation.py; rows name what is shown, in which unit, and
whether more is better. The interval of a change resamples scenes, not differences of means.
"""

import numpy as np

from ar1_jax.evaluate import bootstrap

PERCENT = (
    "consistency",
    "decision_right",
    "longitudinal_right",
    "lateral_right",
    "collision",
    "off_road",
    "valid",
)
METERS = ("ade",)
ROWS = {
    "reward": "reward, total",
    "reasoning": "reward: reasoning, 0 to 1",
    "consistency": "reward: consistency, % of scenes",
    "trajectory": "reward: trajectory, -1 to 1",
    "decision_right": "both decisions right, %",
    "longitudinal_right": "longitudinal decision right, %",
    "lateral_right": "lateral decision right, %",
    "ade": "ADE over 6.4 s, m",
    "collision": "collisions, %",
    "off_road": "time off the road, %",
    "discomfort": "discomfort, 0 to 1",
    "valid": "whole completions, %",
}
OF_VALID = ("ade", "collision", "off_road", "discomfort")  # mean over whole completions only


def values(found, name, metric):
    """(values [n], counted bool [n]) of a metric of evaluation `name` (greedy or sampled), in the unit of its
    row."""
    raw = np.asarray(found[f"{name}/{metric}"], np.float64)
    counted = np.ones(len(raw), bool)
    if metric in OF_VALID:
        counted = np.asarray(found[f"{name}/valid"]) > 0
    return raw * (100.0 if metric in PERCENT else 1.0), counted


def interval(found, name, metric, draws, chosen):
    """bootstrap.Interval over the chosen scenes."""
    value, counted = values(found, name, metric)
    return bootstrap.mean(value, draws, counted & chosen)


def change(before, after, name, metric, draws, chosen):
    """bootstrap.Interval of after - before on the chosen scenes that count in both."""
    (old, old_counted), (new, new_counted) = (values(found, name, metric) for found in (before, after))
    return bootstrap.mean(new - old, draws, old_counted & new_counted & chosen)


def show(found, metric, signed=False):
    """'84.2 (81.0 to 87.1)'; an empty text where nothing was counted."""
    if found is None or not np.isfinite(found.value):
        return ""
    digits, sign = (1 if metric in PERCENT else 3 if metric != "ade" else 2), "+" if signed else ""
    low, high = (f"{x:{sign}.{digits}f}" for x in (found.low, found.high))
    return f"{found.value:{sign}.{digits}f} ({low} to {high})"


def before_after(before, after, controls, name="greedy", seed=0):
    """-> columns, rows of text. controls: {column title: evaluation}, shown as means; `name`: greedy or
    sampled."""
    n = len(before[f"{name}/reward"])
    draws, every = bootstrap.resamples(n, seed), np.ones(n, bool)
    rows = []
    for metric, title in ROWS.items():
        row = [title]
        row += [show(interval(found, name, metric, draws, every), metric) for found in (before, after)]
        row.append(show(change(before, after, name, metric, draws, every), metric, signed=True))
        row += [
            show(interval(found, "greedy", metric, draws, every), metric).split(" ")[0]
            for found in controls.values()
        ]
        rows.append(row)
    return ["", "before", "after", "change", *controls], rows


def by_family(before, after, controls, family, names, metric="reward", name="greedy", seed=0):
    """-> columns, rows: one scenario family a row. family: int [n], index of names."""
    draws, rows = bootstrap.resamples(len(family), seed), []
    for index, title in enumerate(names):
        chosen = np.asarray(family) == index
        if not chosen.any():
            continue
        row = [title, str(int(chosen.sum()))]
        row += [show(interval(found, name, metric, draws, chosen), metric) for found in (before, after)]
        row.append(show(change(before, after, name, metric, draws, chosen), metric, signed=True))
        row += [
            show(interval(found, "greedy", metric, draws, chosen), metric).split(" ")[0]
            for found in controls.values()
        ]
        rows.append(row)
    return ["family", "scenes", "before", "after", "change", *controls], rows


def console(columns, rows, title):
    """The table as aligned text."""
    body = [columns, *rows]
    widths = [max(len(line[i]) for line in body) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in body]
    return "\n".join([title, *lines])
