"""Curves as inline SVG: one small plot a panel, axes with few round ticks, the last value written out.

N points a line. Colours and text styles come from the page (classes s0 to s5, axis, grid, raw), so that a plot follows
its light or dark scheme. A long line is drawn faint, with its running mean over it."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 320, 190  # units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
SMOOTH_FROM, SMOOTH_PARTS = 60, 25  # from this many points on, a running mean over a 25th of them


@dataclasses.dataclass(frozen=True)
class Panel:
    """A drawn plot: title, SVG text, legend of (class, name, last value), remark ("" where there is none)."""

    title: str
    svg: str
    legend: list[tuple[str, str, str]]
    remark: str


def panels(series: Sequence[dict[str, Any]]) -> list[Panel]:
    """[{name, x, y, panel (optional: lines of one panel share a plot)}] -> drawn panels, in order of appearance."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in series:
        grouped.setdefault(str(line.get("panel") or line["name"]), []).append(line)
    return [draw(title, lines) for title, lines in grouped.items()]


def draw(title: str, lines: Sequence[dict[str, Any]]) -> Panel:
    """One plot of one or several lines; values that are None or not finite leave a gap."""
    data = [(str(line["name"]), as_floats(line["x"]), as_floats(line["y"])) for line in lines]
    for name, x, y in data:
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(
                f"curve {name!r}: x {list(x.shape)} and y {list(y.shape)} are not two rows of one length"
            )
    xs, ys = (
        np.concatenate([line[i][np.isfinite(line[1]) & np.isfinite(line[2])] for line in data])
        for i in (1, 2)
    )
    if not len(xs):
        return Panel(title, "", [(f"s{i}", name, "no values") for i, (name, _, _) in enumerate(data)], "")
    x_ticks, y_ticks = ticks(xs.min(), xs.max(), 5, inside=True), ticks(ys.min(), ys.max(), 5)
    x_span, y_span = (xs.min(), xs.max()), (y_ticks[0], y_ticks[-1])
    place = lambda x, y: (across(x, *x_span), down(y, *y_span))
    parts, window = [axis_parts(x_ticks, y_ticks, x_span, y_span)], 0
    for index, (_, x, y) in enumerate(data):
        window = len(y) // SMOOTH_PARTS if len(y) >= SMOOTH_FROM else 0
        parts.append(polyline(*place(x, y), f"line s{index % 6}" + (" raw" if window else "")))
        if window:
            parts.append(polyline(*place(x, running_mean(y, window)), f"line s{index % 6}"))
    label = html.escape(
        f"{title}: " + ", ".join(f"{name} ends at {last(y)}" for name, _, y in data), quote=True
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    remark = f"bold: running mean of {window}" if window else ""
    return Panel(title, svg, [(f"s{i % 6}", name, last(y)) for i, (name, _, y) in enumerate(data)], remark)


def as_floats(values: Any) -> np.ndarray:
    """Numbers, with None as NaN, -> float64 array."""
    return np.asarray(
        [math.nan if v is None else float(v) for v in np.asarray(values, object).ravel()], np.float64
    )


def ticks(low: float, high: float, count: int, inside: bool = False) -> list[float]:
    """About `count` round numbers that enclose [low, high], or that lie inside it."""
    if high - low <= 1e-12 * max(1.0, abs(high)):
        pad = 0.5 * abs(high) or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, final = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    start, stop = (
        first(low / step - 1e-9 * (1 if inside else -1)),
        final(high / step + 1e-9 * (1 if inside else -1)),
    )
    return [i * step for i in range(start, stop + 1)]


def across(x, low: float, high: float):
    """Data x -> units from the left."""
    return LEFT + (WIDTH - LEFT - RIGHT) * (x - low) / ((high - low) or 1.0)


def down(y, low: float, high: float):
    """Data y -> units from the top."""
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / ((high - low) or 1.0)


def axis_parts(x_ticks, y_ticks, x_span, y_span) -> str:
    """Grid lines, tick labels, and a line at zero where zero lies inside."""
    out = []
    for value in y_ticks:
        y = down(value, *y_span)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="axis" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
        )
    for value in x_ticks:
        x = across(value, *x_span)
        out.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 3}"/>'
        )
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        out.append(
            f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 9}" text-anchor="{anchor}">{number(value)}</text>'
        )
    if y_span[0] < 0 < y_span[1]:
        y = down(0.0, *y_span)
        out.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return "".join(out)


def polyline(x: np.ndarray, y: np.ndarray, css: str) -> str:
    """One path; a gap where a value is missing, a dot for a value that stands alone."""
    keep = np.isfinite(x) & np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]]))).reshape(-1, 2)
    lines, dots = [], []
    for first, end in edges:
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[first:end], y[first:end]))
        (dots if end - first == 1 else lines).append(f"M{points}" + ("h0.01" if end - first == 1 else ""))
    path = lambda parts, extra: f'<path class="{css}{extra}" d="{"".join(parts)}"/>' if parts else ""
    return path(lines, "") + path(dots, " dot")


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` finite values up to each point; the first ones of as many as there are."""
    finite = np.isfinite(y)
    total, count = np.cumsum(np.where(finite, y, 0.0)), np.cumsum(finite)
    before = np.arange(len(y)) - window
    earlier = lambda c: np.where(before >= 0, c[before.clip(0)], 0)
    n = count - earlier(count)
    return np.where(n > 0, (total - earlier(total)) / np.maximum(n, 1), math.nan)


def last(y: np.ndarray) -> str:
    """The last finite value, three significant digits."""
    finite = y[np.isfinite(y)]
    return number(float(finite[-1])) if len(finite) else "no values"


def number(value: float) -> str:
    """Short and exact enough for an axis: 0.25, 12,000, 1e-05."""
    value = float(value)
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.3g}"
