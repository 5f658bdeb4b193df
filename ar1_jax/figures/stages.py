"""Stages of a plan as stacked bars, estimates of their floors as marks: where time goes and where some may be left."""

import pathlib
from collections.abc import Sequence

COLOURS = {"vision": "#4c78a8", "prefill": "#72b7b2", "decode": "#f58518", "flow": "#b279a2"}


def draw(rows: Sequence[dict], path: pathlib.Path) -> None:
    """rows: {engine, K, stages: [{stage, p50, floor}]}; a bar each, seconds; written as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: (row["K"], row["engine"]), reverse=True)
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        left = 0.0
        for line in row["stages"]:
            if line["stage"] not in COLOURS:
                continue
            axes.barh(place, line["p50"], left=left, color=COLOURS[line["stage"]], height=0.6,
                      label=line["stage"] if place == len(rows) - 1 else None)  # fmt: skip
            if line["floor"]:
                axes.plot([left + line["floor"]] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1)
            left += line["p50"]
        axes.text(left, place, f" {left:.3g} s", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{row['engine']}, K = {row['K']}" for row in rows])
    axes.set_xlabel("seconds a plan (median); black: estimate of a stage's floor on this machine")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))
