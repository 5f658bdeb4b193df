"""Open-loop tables: rows of policies and of those who do not look, columns with bootstrap intervals, and the targets.

n scenes. Shares and recalls in percent, distances in metres. One set of resamples serves all rows.
"""

import json

import numpy as np

from ar1_jax.evaluate import baselines, bootstrap, open_loop
from ar1_jax.text import coc

COLUMNS = {
    "decision": "both decisions right, %",
    "longitudinal": "macro recall longitudinal, %",
    "lateral": "macro recall lateral, %",
    "text": "reasoning word for word, %",
    "ade_tokens": "ADE 6.4 s by tokens, m",
    "ade_flow": "ADE 6.4 s by flow, m",
    "min_ade": "minADE of the samples by flow, m",
}
PERCENT = ("decision", "longitudinal", "lateral", "text")


def percent(interval):
    """The interval times 100."""
    return bootstrap.Interval(*(100.0 * x for x in interval))


def decision_cells(longitudinal, lateral, samples, draws, valid):
    """Cells of the first three columns for predicted i32 [n] each, over the scenes where valid [n]."""
    right = (longitudinal == samples["longitudinal"]) & (lateral == samples["lateral"])
    cells = {"decision": percent(bootstrap.mean(right, draws, valid))}
    for name, predicted, closed in (
        ("longitudinal", longitudinal, coc.LONGITUDINAL),
        ("lateral", lateral, coc.LATERAL),
    ):
        truth = np.where(valid, samples[name], -1)
        cells[name] = percent(bootstrap.macro_recall(predicted, truth, len(closed), draws))
    return cells


def baseline_rows(samples, draws, valid):
    """Rows of those who do not look: two extrapolations of the history, and the most frequent decision."""
    history, rows = (samples["ego_history_xyz"], samples["ego_history_rot"]), {}
    extrapolations = {
        "constant velocity": baselines.constant_velocity,
        "constant speed and curvature": baselines.constant_speed_and_curvature,
    }
    for name, extrapolate in extrapolations.items():
        ade, _ = open_loop.displacement(extrapolate(*history)[:, None], samples["ego_future_xyz"])
        cell = bootstrap.mean(ade[:, 0], draws, valid)
        rows[name] = {"ade_tokens": cell, "ade_flow": cell}
    pair = baselines.majority(samples["longitudinal"], samples["lateral"])
    always = [np.full(len(valid), index) for index in pair]
    rows["majority decision"] = decision_cells(*always, samples, draws, valid)
    return rows


def policy_row(answers, samples, truth, draws, valid):
    """Row of greedy Answers; truth: the n true texts. Trajectories of incomplete completions count as they decode."""
    row = decision_cells(answers.longitudinal, answers.lateral, samples, draws, valid)
    same = np.array([got == want for got, want in zip(answers.texts, truth, strict=True)])
    row["text"] = percent(bootstrap.mean(same, draws, valid))
    for name, paths in (("ade_tokens", answers.tokens), ("ade_flow", answers.flow)):
        ade, _ = open_loop.displacement(paths, samples["ego_future_xyz"])
        row[name] = bootstrap.mean(ade[:, 0], draws, valid)
    return row


def open_loop_tables(by_mode, samples, truth, families, seed=0, several=None):
    """{mode: Answers} -> {"all": rows, family name: rows ...}; families: names, `samples["family"]` their index.

    several: Answers with K > 1 sampled plans of the true pictures; they give the column "min_ade" (the paper's E1).
    """
    draws = bootstrap.resamples(len(truth), seed)
    groups = {"all": np.ones(len(truth), bool)}
    groups |= {name: samples["family"] == index for index, name in enumerate(families)}
    tables = {}
    for name, valid in groups.items():
        if valid.any():
            tables[name] = baseline_rows(samples, draws, valid)
            for mode, answers in by_mode.items():
                tables[name][f"policy, {mode} images"] = policy_row(answers, samples, truth, draws, valid)
            if several is not None:
                ade, _ = open_loop.displacement(several.flow, samples["ego_future_xyz"])
                tables[name]["policy, true images"]["min_ade"] = bootstrap.mean(ade.min(-1), draws, valid)
    return tables


def targets(rows):
    """What a policy that sees must show in the table "all": (claim, value, holds) each."""
    value = lambda row, column: rows[row][column].value
    seen, majority = value("policy, true images", "decision"), value("majority decision", "decision")
    drop = seen - value("policy, shuffled images", "decision")
    blind = value("policy, none images", "decision") - majority
    base = value("constant speed and curvature", "ade_tokens")
    best = min(value("policy, true images", name) for name in ("ade_tokens", "ade_flow"))
    recalls = [value("policy, true images", name) for name in ("longitudinal", "lateral")]
    return [
        ("decisions at least 15 points above majority", seen - majority, seen - majority >= 15.0),
        ("decisions at least 25 points above shuffled pictures", drop, drop >= 25.0),
        ("macro recall of the worse channel at least 60 %", min(recalls), min(recalls) >= 60.0),
        ("ADE at most 0.7 of constant speed and curvature", best / base, best / base <= 0.7),
        ("without pictures at most 3 points above majority", blind, blind <= 3.0),
    ]


def markdown(rows, title):
    """A table as Markdown: value and 95 % interval in each cell."""
    columns = used(rows)
    head = ["", *(COLUMNS[column] for column in columns)]
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [show(row.get(column), column) for column in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def used(rows):
    """The columns that some row fills, in order."""
    return [column for column in COLUMNS if any(column in row for row in rows.values())]


def show(interval, column):
    """'84.2 (81.0 to 87.1)', an empty cell for None or NaN."""
    if interval is None or not np.isfinite(interval.value):
        return ""
    digits = 1 if column in PERCENT else 2
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def console(rows, title):
    """The table as aligned text."""
    columns = used(rows)
    body = [["", *columns], *([name, *(show(row.get(c), c) for c in columns)] for name, row in rows.items())]
    widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in body
    ]
    return "\n".join([title, *lines])


def report(tables, about):
    """Markdown page and JSON text of all tables; about: {name: text} on run, command and machine."""
    rows = tables["all"]
    lines = ["# Open loop", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [f"- {claim}: {value:.2f}, {'yes' if holds else 'NO'}" for claim, value, holds in targets(rows)]
    pages = [
        markdown(part, "all scenes" if name == "all" else f"family {name}") for name, part in tables.items()
    ]
    plain = {
        name: {
            row: {column: dict(cell._asdict()) for column, cell in cells.items()}
            for row, cells in part.items()
        }
        for name, part in tables.items()
    }
    found = [{"claim": claim, "value": value, "holds": bool(holds)} for claim, value, holds in targets(rows)]
    text = json.dumps({"about": about, "targets": found, "tables": plain}, indent=2, default=float) + "\n"
    return "\n".join([*lines, "", *pages]), text.replace("NaN", "null")
