"""Time against quality of a plan: one curve a group of settings, left what a plan is worth, right how far it is off.

A point is a dict: group (the curve), label (written beside the point), plan_ms and flow_ms (median, lower, upper
quartile), ade (value, low, high; metres), gap (metres, above 0; 0 is left out on the logarithmic axis).
"""

import os
from collections.abc import Sequence

from ar1_jax.figures import groups

MARKERS = ("o", "s", "^", "D")


def render(points: Sequence[dict], path: str | os.PathLike) -> None:
    """Writes the picture as PNG, 1440 px wide."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=144, layout="constrained")
    for index, group in enumerate(dict.fromkeys(p["group"] for p in points)):
        mine = [p for p in points if p["group"] == group]
        style = {
            "color": groups.COLORS[index % 6],
            "marker": MARKERS[index % 4],
            "markersize": 5,
            "linewidth": 1.2,
        }
        x, y = [p["plan_ms"] for p in mine], [p["ade"] for p in mine]
        left.errorbar(
            [v[0] for v in x], [v[0] for v in y], capsize=2, label=group, **style,
            xerr=[[v[0] - v[1] for v in x], [v[2] - v[0] for v in x]],
            yerr=[[v[0] - v[1] for v in y], [v[2] - v[0] for v in y]],
        )  # fmt: skip
        off = [p for p in mine if p["gap"] > 0]
        right.plot([p["flow_ms"][0] for p in off], [p["gap"] for p in off], label=group, **style)
        for axis, shown, px, py in (
            (left, mine, lambda p: p["plan_ms"][0], lambda p: p["ade"][0]),
            (right, off, lambda p: p["flow_ms"][0], lambda p: p["gap"]),
        ):
            for p in shown:
                axis.annotate(p["label"], (px(p), py(p)), (4, 5), textcoords="offset points", fontsize=8)
    left.set(
        xlabel="a plan, ms (median and quartiles)", ylabel="ADE over 6.4 s, m (95 % interval)", ylim=(0, None)
    )
    left.set_xlim(0, None)
    right.set(
        xlabel="its flow alone, ms (median)", ylabel="mean distance from 100 Euler steps, m", yscale="log"
    )
    right.set_xlim(0, None)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8, title="numbers at the points: flow steps", title_fontsize=8)
    figure.savefig(path)
    plt.close(figure)
