"""Time against quality of a plan: a row a setting, what its plan takes and is worth, and how far its flow is off.

A point is a dict: group (the curve), label (its flow steps), plan_ms and flow_ms (median, lower, upper quartile), ade
(value, low, high; metres), gap (metres, above 0; 0 is left out on the logarithmic axis).
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

    figure, (times, worth, right) = plt.subplots(
        1, 3, figsize=(10, 4.2), dpi=144, layout="constrained", width_ratios=(1, 1, 1.6)
    )
    names = list(dict.fromkeys(p["group"] for p in points))
    styles = {name: {"color": groups.COLORS[i % 6], "marker": MARKERS[i % 4]} for i, name in enumerate(names)}
    rows = sorted(points, key=lambda p: names.index(p["group"]))
    for axis, key in ((times, "plan_ms"), (worth, "ade")):
        for y, p in enumerate(rows):
            middle, low, high = p[key]
            around = [[middle - low], [high - middle]]
            axis.errorbar([middle], [y], xerr=around, capsize=2, markersize=5, **styles[p["group"]])
        axis.set(yticks=range(len(rows)), yticklabels=[], ylim=(len(rows) - 0.5, -0.5), xlim=(0, None))
    times.set_yticklabels([f"{p['group']}, {p['label']}" for p in rows], fontsize=8)
    times.set_xlabel("a plan, ms\n(median and quartiles)")
    worth.set_xlabel("ADE over 6.4 s, m\n(95 % interval)")
    for name in names:
        off = [p for p in points if p["group"] == name and p["gap"] > 0]
        x, y = [p["flow_ms"][0] for p in off], [p["gap"] for p in off]
        right.plot(x, y, label=name, markersize=5, linewidth=1.2, **styles[name])
        for p in off:
            place = (p["flow_ms"][0], p["gap"])
            right.annotate(p["label"], place, (4, 5), textcoords="offset points", fontsize=8)
    right.set(
        xlabel="its flow alone, ms (median)", ylabel="mean distance from 100 Euler steps, m", yscale="log"
    )
    right.set_xlim(0, None)
    right.legend(frameon=False, fontsize=8, title="numbers: flow steps", title_fontsize=8)
    for axis in (times, worth, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
