"""One picture of a plan: what the cameras gave, where the car would go, and why.

C cameras, T frames, K samples, W = 64 waypoints at 0.1 s, M agents. Metres, ego frame at t0: x forward, y left. The
bird's-eye view is to scale with x to the right; samples that reason alike share a colour, a dash pattern and a letter,
so that no meaning hangs on colour alone (palette: Okabe and Ito, 2008). Lengths in this file are pixels of the PNG.
"""

import io
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ar1_jax.figures import groups, overlay

WIDTH, MARGIN, GAP, DPI = 1440, 48, 16, 144
TEXT, SMALL = 8.0, 6.8  # points; 16 and 14 pixels here, 14 and 12 where the picture is shown 1280 wide
STRIP_HEIGHT, LOOK_HEIGHT = 400, 560  # at most, where one camera could be enlarged without end
VIEW_HEIGHT = (240, 560)
REASON_LINES = 8  # a longer text is cut here; the whole text is the caller's to keep
LINE, DISC = 24, 26  # a line of text, the letter of a kind with some air
DT = 0.1
EGO_BOX = (4.8, 2.0, 1.4)  # length, width, centre ahead of the origin (rear axle); a usual saloon
INK, MUTED, ROAD, AGENT = "#1a1a1a", "#5f6368", "#b8bcc2", "#7d8590"


def render(
    images: Any,
    camera_names: Sequence[str],
    history_xyz: np.ndarray,
    trajectories: np.ndarray,
    reasoning: Sequence[str],
    *,
    path: str | os.PathLike | None = None,
    title: str | None = None,
    decisions: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    rotations: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    agents: np.ndarray | None = None,
    lanes: Sequence[np.ndarray] = (),
    calibration: Sequence[Any] | None = None,
    pictures: Any = None,
    samples: int | None = None,
) -> bytes:
    """The picture as PNG bytes, 1440 px wide; also written to `path` where given.

    images: uint8 [C, T, H, W, 3] or [C, H, W, 3], the pixels the policy receives; the last frame is shown, enlarged by
    a whole factor without smoothing. history_xyz [16, 3], trajectories [K, W, 3] m, reasoning K texts. decisions and
    notes (a reward, say): K short texts. rotations: [K, W, 3, 3], for the sign of the speed. truth: [W, 3], the way
    that was really driven. agents: [M, 5] boxes at t0 or [M, W, >= 5] over time: x, y, yaw, length, width; rows with
    NaN or no length are left out. lanes: lines [N, >= 2]. calibration: a core.types.CameraModel a camera; with it and
    rotations the ways are drawn on the cameras that look along them, in `pictures` (like images, the cameras' own
    pixels) where given. samples: of how many each reasoning is counted (K by default; fewer where plans are compared).
    Raises ValueError where lengths disagree.
    """
    frames = latest_frames(images)
    trajectories = np.asarray(trajectories, np.float64)
    k = len(trajectories)
    check(frames, camera_names, trajectories, reasoning, decisions, notes, calibration, rotations)
    kinds = groups.group(reasoning, decisions or [""] * k)
    blocks = [reason_lines(kind, notes) for kind in kinds]
    shown = looks(calibration, trajectories, images if pictures is None else pictures, camera_names)
    window = view_window(history_xyz, trajectories, truth)
    heights = row_heights(title, frames, shown, window, blocks)
    figure = new_figure(sum(heights.values()) + MARGIN)
    top = 16
    if title:
        write(figure, MARGIN, top, title, size=TEXT * 1.25, weight="bold")
    top += heights["title"]
    draw_strip(figure, top, frames, camera_names, strip_scale(frames)[0])
    top += heights["strip"]
    if shown:
        draw_looks(figure, top, shown, trajectories, rotations, kinds, truth)
    top += heights["looks"]
    draw_view(figure, top, window, history_xyz, trajectories, kinds, truth, agents, lanes)
    top += heights["view"]
    draw_reasons(figure, top, kinds, blocks, samples or k)
    future = [
        future_speeds(way, None if rotations is None else rotations[i]) for i, way in enumerate(trajectories)
    ]
    draw_speed(figure, top, heights["text"], speeds(history_xyz), future, kinds, truth)
    return save(figure, path)


def looks(calibration, trajectories, pictures, camera_names) -> list[tuple]:
    """(picture [H, W, 3], name, CameraModel) of each camera on which the ways are drawn."""
    frames = latest_frames(pictures)
    chosen = overlay.looking_there(calibration, trajectories)
    return [(frames[i], camera_names[i], calibration[i]) for i in chosen]


def row_heights(title, frames, shown, window, blocks) -> dict[str, int]:
    """Pixels of each row of the picture, from top to bottom, its heading and the gap below it included."""
    return {
        "title": 40 if title else 8,
        "strip": strip_scale(frames)[1] + 46,
        "looks": strip_scale([frame for frame, *_ in shown], LOOK_HEIGHT)[1] + 76 if shown else 0,
        "view": view_height(window) + 84,
        "text": max(200, sum(len(b) * LINE + 14 for b in blocks) + 20),
    }


def check(
    frames, camera_names, trajectories, reasoning, decisions, notes, calibration=None, rotations=None
) -> None:
    """ValueError naming every argument whose length or shape does not fit."""
    k, problems = len(trajectories), []
    if len(camera_names) != len(frames):
        problems.append(f"camera_names: {len(camera_names)} for {len(frames)} cameras")
    if trajectories.ndim != 3 or trajectories.shape[-1] < 2 or k == 0:
        problems.append(f"trajectories: {list(trajectories.shape)}, expected [K, W, 3]")
    for name, texts in (("reasoning", reasoning), ("decisions", decisions), ("notes", notes)):
        if texts is not None and len(texts) != k:
            problems.append(f"{name}: {len(texts)} texts for {k} trajectories")
    if calibration is not None and len(calibration) != len(frames):
        problems.append(f"calibration: {len(calibration)} for {len(frames)} cameras")
    if calibration is not None and rotations is None:
        problems.append("rotations: missing; ways are drawn on calibrated pictures across the car's own axis")
    if problems:
        raise ValueError("plan figure: " + "; ".join(problems))


def latest_frames(images: Any) -> list[np.ndarray]:
    """[C, T, H, W, 3] or [C, H, W, 3] (or a list a camera) -> the last frame of each camera, uint8 [H, W, 3]."""
    return [frame[-1] if frame.ndim == 4 else frame for frame in map(np.asarray, images)]


def strip_scale(frames: Sequence[np.ndarray], limit: int = STRIP_HEIGHT) -> tuple[float, int]:
    """(factor of enlargement: a whole one, or below 1 where the strip must shrink; height of the strip in pixels)."""
    height, width = max(f.shape[0] for f in frames), max(f.shape[1] for f in frames)
    room = (WIDTH - 2 * MARGIN - GAP * (len(frames) - 1)) / len(frames)
    scale = min(room / width, limit / height)
    scale = int(scale) if scale >= 1 else scale
    return scale, round(height * scale)


def view_window(history_xyz, trajectories, truth) -> tuple[float, float, float, float]:
    """(x low, x high, y low, y high) in metres: all ways with some air, at least 60 m by 14 m."""
    ways = [
        np.reshape(a, (-1, np.shape(a)[-1]))[:, :2]
        for a in (history_xyz, trajectories, truth)
        if a is not None
    ]
    points = np.concatenate([*ways, [[-4.0, 0.0]]])
    points = points[np.isfinite(points).all(-1)]
    low, high = points.min(0) - (2.0, 5.0), points.max(0) + (8.0, 5.0)
    return float(low[0]), float(max(high[0], low[0] + 60)), float(min(low[1], -7)), float(max(high[1], 7))


def view_height(window: tuple[float, float, float, float]) -> int:
    """Pixels for the bird's-eye view at full width, within VIEW_HEIGHT."""
    x0, x1, y0, y1 = window
    return int(np.clip((WIDTH - 2 * MARGIN) * (y1 - y0) / (x1 - x0), *VIEW_HEIGHT))


def new_figure(height: int):
    """A blank figure of WIDTH by `height` pixels, free of pyplot and its state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def axes(figure, left: float, top: float, width: float, height: float):
    """Axes at a place given in pixels from the upper left corner."""
    total = figure.get_figheight() * DPI
    return figure.add_axes((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total))


def write(figure, left: float, top: float, text: str, size: float = TEXT, **style) -> None:
    """Text whose upper left corner lies at (left, top) pixels; no character of it is read as mathematics."""
    total = figure.get_figheight() * DPI
    style = {"color": INK, "va": "top", "parse_math": False} | style
    figure.text(left / WIDTH, 1 - top / total, text, fontsize=size, **style)


def draw_strip(figure, top: float, frames, names, scale: float, plain: bool = False) -> list:
    """The cameras side by side, each labelled with its name and, unless plain, its size; returns their axes."""
    boxes, left = [], MARGIN
    for frame, name in zip(frames, names, strict=True):
        height, width = frame.shape[:2]
        box = axes(figure, left, top + 24, width * scale, height * scale)
        box.imshow(frame, interpolation="nearest" if scale >= 1 else "antialiased", aspect="auto")
        box.set_axis_off()
        boxes.append(box)
        write(figure, left, top, name, weight="normal" if plain else "bold")
        if not plain:
            size = f"{width}×{height} px, " + (f"×{scale}" if scale >= 1 else "shrunk")
            write(figure, left + width * scale, top + 2, size, size=SMALL, color=MUTED, ha="right")
        left += width * scale + GAP
    return boxes


def draw_looks(figure, top: float, shown, trajectories, rotations, kinds, truth) -> None:
    """The ways on the cameras that look where they lead; shown: (picture [H, W, 3], name, CameraModel) each."""
    title = f"Where it would drive: bands of {overlay.BAND} m on the ground, a dot each second"
    write(figure, MARGIN, top, title, weight="bold")
    frames, names, calibration = zip(*shown, strict=True)
    boxes = draw_strip(figure, top + 30, frames, names, strip_scale(frames, LOOK_HEIGHT)[0], plain=True)
    for box, frame, camera in zip(boxes, frames, calibration, strict=True):
        overlay.draw(box, camera, frame.shape[:2], trajectories, rotations, kinds, truth)


def draw_view(figure, top: float, window, history_xyz, trajectories, kinds, truth, agents, lanes) -> None:
    """Bird's-eye view to scale: lanes, agents, history, K ways with a dot each second, the truth."""
    write(figure, MARGIN, top, "Seen from above, to scale (m)", weight="bold")
    view = axes(figure, MARGIN, top + 28, WIDTH - 2 * MARGIN, view_height(window))
    x0, x1, y0, y1 = fit_aspect(window, (WIDTH - 2 * MARGIN) / view_height(window))
    view.set(xlim=(x0, x1), ylim=(y0, y1))
    view.locator_params(integer=True)  # a label such as -10.0 would not fit beside the view
    plain(view)
    for lane in lanes:
        lane = np.asarray(lane, np.float64)
        view.plot(lane[:, 0], lane[:, 1], color=ROAD, lw=0.8, zorder=1)
    draw_agents(view, agents)
    draw_box(view, EGO_BOX[2], 0.0, 0.0, *EGO_BOX[:2], facecolor=INK, edgecolor=INK, zorder=6)
    history_xyz = np.asarray(history_xyz)
    view.plot(history_xyz[:, 0], history_xyz[:, 1], color=INK, lw=2.2, solid_capstyle="butt", zorder=4)
    key = [("history", {"color": INK, "lw": 2.2})]
    if truth is not None:
        truth = np.asarray(truth)
        style = {"color": INK, "lw": 1.3, "ls": (0, (1, 1.4))}
        view.plot(truth[:, 0], truth[:, 1], **style, zorder=8)
        key.append(("driven in truth", style))
    taken: list[np.ndarray] = []
    for kind in kinds:
        style = {"color": kind.color, "ls": kind.dash, "lw": 1.4}
        for index in kind.members:
            way = np.concatenate([np.zeros((1, 2)), trajectories[index, :, :2]])
            view.plot(way[:, 0], way[:, 1], **style, alpha=0.9, zorder=7)
            view.plot(way[10::10, 0], way[10::10, 1], ".", color=kind.color, ms=4, zorder=7)
        name_ends(view, trajectories[kind.members, -1, :2], kind, taken)
        key.append((kind.letter, style))
    draw_key(figure, top, key)


def fit_aspect(window, aspect: float) -> tuple[float, float, float, float]:
    """The window grown in x or in y until width / height is `aspect`, so that a metre is a metre both ways."""
    x0, x1, y0, y1 = window
    wide, high = max(x1 - x0, (y1 - y0) * aspect), max(y1 - y0, (x1 - x0) / aspect)
    middle = (y0 + y1) / 2
    return x0, x0 + wide, middle - high / 2, middle + high / 2


def name_ends(view, ends: np.ndarray, kind, taken: list[np.ndarray]) -> None:
    """The kind's letter behind the end that reaches furthest, moved up past the letters in `taken` (pixels, grows)."""
    x, y = ends[np.argmax(ends[:, 0])]
    place = view.transData.transform((x, y)) + (22, 0)
    while any(np.abs(place - other).max() < DISC for other in taken):
        place = place + (0, DISC)
    taken.append(place)
    disc = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": kind.color, "lw": 1.0}
    offset = (place - view.transData.transform((x, y))) * 72 / DPI  # points
    where = {"xytext": offset, "textcoords": "offset points", "ha": "center", "va": "center"}
    view.annotate(
        kind.letter, (x, y), fontsize=SMALL, color=INK, bbox=disc, zorder=8, annotation_clip=True, **where
    )


def draw_agents(view, agents) -> None:
    """Boxes at t0, and a thin line for where each will have been where `agents` has time."""
    if agents is None:
        return
    agents = np.asarray(agents, np.float64)
    future = agents if agents.ndim == 3 else agents[:, None]
    for agent in future:
        agent = agent[np.isfinite(agent[:, :5]).all(-1) & (agent[:, 3] > 0)]
        if not len(agent):
            continue
        draw_box(view, *agent[0, :5], facecolor="#dfe3e8", edgecolor=AGENT, zorder=3)
        if np.ptp(agent[:, :2], axis=0).max() > 1.0:
            view.plot(agent[:, 0], agent[:, 1], color=AGENT, lw=0.8, zorder=2)


def draw_box(view, x, y, yaw, length, width, **style) -> None:
    """A rectangle with its centre at (x, y), turned by `yaw`."""
    from matplotlib.patches import Polygon

    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (length / 2, width / 2)
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    view.add_patch(Polygon(corners @ turn.T + (x, y), closed=True, lw=0.8, **style))


def draw_key(figure, top: float, key) -> None:
    """The legend, right-aligned in one line above the view."""
    left = WIDTH - MARGIN - sum(62 + 8 * len(label) for label, _ in key)
    for label, style in key:
        line = axes(figure, left, top + 2, 36, 16)
        line.plot([0, 1], [0.5, 0.5], **style)
        line.set(xlim=(0, 1), ylim=(0, 1))
        line.set_axis_off()
        write(figure, left + 42, top, label, size=SMALL)
        left += 62 + 8 * len(label)


def plain(view) -> None:
    """Quiet axes: small ticks, faint grid below everything."""
    view.tick_params(labelsize=SMALL, colors=MUTED, length=2)
    view.grid(color="#eceef1", lw=0.6)
    view.set_axisbelow(True)
    for side in view.spines.values():
        side.set(color="#d0d4d9", lw=0.6)


def reason_lines(kind, notes) -> list[str]:
    """Decision and reasoning of a kind as lines of at most 78 characters; what was cut ends in …"""
    text = kind.reasoning.strip() or "(no reasoning text)"
    lines = textwrap.wrap(" ".join(text.split()), 78)
    if len(lines) > REASON_LINES:
        lines = [*lines[: REASON_LINES - 1], lines[REASON_LINES - 1][:76] + " …"]
    said = [notes[i] for i in kind.members if notes[i]] if notes is not None else []
    said = said[:1] if len(set(said)) == 1 and len(said) == len(kind.members) else said
    return [kind.decision, *lines, *textwrap.wrap("   ".join(said), 78)]


def draw_reasons(figure, top: float, kinds, blocks, k: int) -> None:
    """Per kind: letter, how many of the samples, decision, reasoning, notes."""
    top += 4
    for kind, lines in zip(kinds, blocks, strict=True):
        disc = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": kind.color, "lw": 1.4}
        write(figure, MARGIN + 8, top + 2, kind.letter, size=TEXT, bbox=disc)
        count = f"{len(kind.members)} of {k}" + (f"   {lines[0]}" if lines[0] else "")
        write(figure, MARGIN + 44, top, count, weight="bold")
        for row, line in enumerate(lines[1:], start=1):
            write(figure, MARGIN + 44, top + row * LINE, line)
        top += len(lines) * LINE + 14


def draw_speed(figure, top: float, height: float, past, future, kinds, truth) -> None:
    """Speed over time: what a stop looks like, which from above is only a short line. Below 0 is backwards."""
    left = 880
    write(figure, left, top, "Speed (m/s) over time (s)", weight="bold")
    panel = axes(figure, left + 20, top + 30, WIDTH - MARGIN - left - 20, min(height, 300) - 60)
    plain(panel)
    panel.plot(DT * np.arange(1 - len(past), 1), past, color=INK, lw=2.2)
    at = DT * (np.arange(len(future[0])) + 1)
    for kind in kinds:
        for index in kind.members:
            panel.plot(at, future[index], color=kind.color, ls=kind.dash, lw=1.2)
    if truth is not None:
        panel.plot(at, future_speeds(truth), color=INK, lw=1.3, ls=(0, (1, 1.4)))
    panel.axvline(0, color=MUTED, lw=0.6)
    lowest = min(float(np.min(line)) for line in (past, *future))
    panel.axhline(0, color=MUTED, lw=0.6)
    panel.set(
        xlim=(DT * (1 - len(past)), at[-1]), ylim=(1.1 * min(lowest, 0.0), max(2.0, panel.get_ylim()[1]))
    )


def speeds(xyz) -> np.ndarray:
    """Positions [N, 3] at 10 Hz -> speeds [N - 1] in m/s."""
    return np.linalg.norm(np.diff(np.asarray(xyz, np.float64), axis=0), axis=-1) / DT


def future_speeds(xyz, rotation=None) -> np.ndarray:
    """Waypoints [W, 3] from 0.1 s on -> speeds [W], the first one from the origin; with rotations [W, 3, 3] a move
    against the car's own x axis is negative."""
    ways = np.concatenate([np.zeros((1, 3)), np.asarray(xyz)[:, :3]])
    if rotation is None:
        return speeds(ways)
    along = np.einsum("wi,wi->w", np.diff(ways, axis=0), np.asarray(rotation)[..., 0])
    return np.where(along < 0, -1.0, 1.0) * speeds(ways)


def save(figure, path) -> bytes:
    """PNG bytes of the figure; a file, where asked for, appears whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    if path is not None:
        path = pathlib.Path(path)
        sibling = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        sibling.write_bytes(buffer.getvalue())
        os.replace(sibling, path)
    return buffer.getvalue()
