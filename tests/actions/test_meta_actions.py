"""Meta-actions against the published rules written as loops over segments, and on motions with known answers."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ar1_jax.actions import meta_actions as meta
from tests.actions import motions

DT = 0.1


def kinematics(xyz, rot, speed0):
    xy = np.concatenate([[[0.0, 0.0]], xyz[:, :2].astype("float64")])
    heading = np.concatenate([[0.0], np.arctan2(rot[:, 1, 0], rot[:, 0, 0])])
    velocity = np.gradient(xy, DT, axis=0)
    velocity[0] = speed0, 0
    along = velocity[:, 0] * np.cos(heading) + velocity[:, 1] * np.sin(heading)
    return xy, heading, np.hypot(*velocity.T), along


def segments(series):
    """series: (values, threshold, hysteresis fraction) -> [(start, end)], cut where any state flips."""
    ticks, states = len(series[0][0]), []
    for values, threshold, fraction in series:
        on = [values[0] >= threshold]
        for v in values[1:]:
            bar = threshold + fraction * abs(threshold) * (-1 if on[-1] else 1)
            on.append(v >= bar)
        states.append(on)
    starts = [0]
    for t in range(1, ticks - meta.PAUSE):
        allowed = len(starts) == 1 or t - starts[-1] > meta.PAUSE
        if allowed and any(s[t] != s[t - 1] for s in states):
            starts.append(t)
    return list(zip(starts, [*starts[1:], ticks - 1], strict=True))


def clean(runs, shortest):
    """runs: [[start, end, name]]; equal neighbours merged, the leftmost short run removed, until none is left."""
    while True:
        merged = []
        for run in runs:
            if merged and merged[-1][2] == run[2]:
                merged[-1][1] = run[1]
            else:
                merged.append(list(run))
        runs = merged
        short = [i for i, (a, b, name) in enumerate(runs) if b - a < shortest(name)]
        if len(runs) == 1 or not short:
            return runs
        i = short[0]
        a, b, _ = runs[i]
        before, after = (runs[i - 1] if i else None), (runs[i + 1] if i + 1 < len(runs) else None)
        middle = b if after is None else a if before is None else a + (b - a) // 2
        if before is not None:
            before[1] = middle
        if after is not None:
            after[0] = middle
        runs = runs[:i] + runs[i + 1 :]


def spread(runs, ticks):
    out = [None] * ticks
    for a, b, name in runs:
        out[a:b] = [name] * (b - a)
    return out


def longitudinal(speed, along):
    accel = np.diff(speed) / DT
    accel = np.concatenate([accel[:1], accel])
    accel = np.array([accel[max(0, i - 2) : i + 3].mean() for i in range(len(accel))])
    series = [(along, 0.3, 0), (along, -0.3, 0)] + [(accel, a, 0.15) for a in (0.1, -0.1, 1.25, -1.25)]
    runs = []
    for a, b in segments(series):
        gain = speed[b] - speed[a]
        mean = gain / ((b - a) * DT)
        if along[a:b].mean() <= -0.12:
            name = "reverse"
        elif speed[a:b].mean() <= 0.12:
            name = "stop"
        elif abs(gain) >= 0.8 and abs(mean) >= 0.15:
            strength = "strong" if abs(mean) > 1.4 else "gentle"
            name = f"{strength}_{'acceleration' if gain > 0 else 'deceleration'}"
        else:
            name = "maintain_speed"
        runs.append([a, b, name])
    runs[-1][1] += 1
    return spread(clean(runs, lambda name: 12 if name == "maintain_speed" else 8), len(speed))


def lateral(xy, heading, along, standing):
    distance = np.hypot(*np.diff(xy, axis=0).T)
    turn = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    padded = np.pad(turn, 2, mode="reflect")
    turn = np.array([padded[i : i + 5].mean() for i in range(len(turn))])
    rate = np.where(distance > 1e-6, turn / np.maximum(distance, 1e-6), 0)
    series = [(along[:-1], -0.1, 0)] + [(rate, r, 0) for r in (0.001, -0.001, 0.05, -0.05)]
    runs = []
    for a, b in segments(series):
        total, mean = turn[a:b].sum(), turn[a:b].sum() / max(distance[a:b].sum(), 1e-6)
        side = "left" if total > 0 else "right"
        if along[a:b].mean() <= -0.1 and abs(mean) >= 0.002 and abs(total) >= 0.2:
            name = "reverse_" + side
        elif abs(mean) >= 0.05 and abs(total) >= 0.2:
            name = "sharp_steer_" + side
        elif abs(mean) >= 0.0015 and abs(total) >= 0.015:
            name = "steer_" + side
        else:
            name = "go_straight"
        runs.append([a, b, name])
    runs[-1][1] += 1
    names = spread(clean(runs, lambda name: 10), len(turn))
    return [None if s else n for n, s in zip(names, standing, strict=True)]


def names(indices, known):
    return [None if i < 0 else known[i] for i in np.asarray(indices)]


@hypothesis.settings(max_examples=80)
@hypothesis.given(seed=st.integers(0, 10**6), parts=st.integers(1, 4), calm=st.booleans())
def test_labels_match_the_rules_in_loops(seed, parts, calm):
    rng = np.random.default_rng(seed)  # generic values: round ones lie on the thresholds
    first, accels, bends = rng.uniform(-2, 15), rng.uniform(-4, 3, parts), rng.uniform(-0.1, 0.1, parts)
    accels, bends = accels * rng.choice([1, 0.2], parts), bends * rng.choice([1, 0.1, 0.0], parts)
    if calm:
        accels = accels * rng.choice([0, 1], parts)

    def pieces(values, t):
        return values[np.clip(t / 6.4 * len(values), 0, len(values) - 1).astype(int)]

    times = np.arange(0, 6.4, 0.005)
    gained = np.concatenate([[0.0], np.cumsum(pieces(accels, times) * 0.005)])[:-1]
    speed = lambda t: first + np.interp(t, times, gained)
    *_, xyz, rot = motions.drive(speed, lambda t: pieces(bends, t))
    got = meta.labels(xyz, rot, np.float32(first))
    xy, heading, v, along = kinematics(xyz, rot, first)
    want = longitudinal(v, along)
    standing = [name == "stop" for name in want[:-1]]
    assert names(got[0], meta.LONGITUDINAL) == want
    assert names(got[1], meta.LATERAL) == lateral(xy, heading, along, standing)


SOFT = "gentle_deceleration"
KNOWN = {  # speed(t), curvature(t) -> longitudinal first, dominant; lateral first
    "steady": (lambda t: 10.0, lambda t: 0.0, "maintain_speed", "maintain_speed", "go_straight"),
    "curve": (lambda t: 10.0, lambda t: 0.01, "maintain_speed", "maintain_speed", "steer_left"),
    "hairpin": (lambda t: 4.0, lambda t: -0.08, "maintain_speed", "maintain_speed", "sharp_steer_right"),
    "gentle": (lambda t: 10 - t.clip(1, 6) + 1, lambda t: 0.0, *["gentle_deceleration"] * 2, "go_straight"),
    "hard": (
        lambda t: (12 - 3 * t.clip(1) + 3).clip(0),
        lambda t: 0.0,
        *["strong_deceleration"] * 2,
        "go_straight",
    ),
    "brisk": (lambda t: 5 + 1.5 * t.clip(0), lambda t: 0.0, *["strong_acceleration"] * 2, "go_straight"),
    "easy": (lambda t: 5 + 1.3 * t.clip(0), lambda t: 0.0, *["gentle_acceleration"] * 2, "go_straight"),
    "firm": (lambda t: 14 - 1.5 * t.clip(0), lambda t: 0.0, *["strong_deceleration"] * 2, "go_straight"),
    "soft": (lambda t: 14 - 1.3 * t.clip(0), lambda t: 0.0, *["gentle_deceleration"] * 2, "go_straight"),
    "late": (lambda t: 14 - 1.3 * t.clip(4) + 5.2, lambda t: 0.0, SOFT, "maintain_speed", "go_straight"),
    "bend": (lambda t: 10.0, lambda t: 0.01 * (t > 3), *["maintain_speed"] * 2, "steer_left"),
    "wait": (lambda t: (t - 5).clip(0) * 0, lambda t: 0.0, "stop", "stop", "go_straight"),
    "away": (
        lambda t: 2 * t.clip(0),
        lambda t: 0.0,
        "strong_acceleration",
        "strong_acceleration",
        "go_straight",
    ),
    "back": (lambda t: -2.0, lambda t: 0.0, "reverse", "reverse", "go_straight"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_motions(name):
    speed, bend, first, dominant, side = KNOWN[name]
    *_, xyz, rot = motions.drive(speed, bend)
    start = np.float32(np.ravel(speed(np.zeros(1)))[0])
    got = meta.channel_classes(xyz, rot, start)
    assert meta.LONGITUDINAL[got.longitudinal_first] == first
    assert meta.LONGITUDINAL[got.longitudinal_dominant] == dominant
    assert meta.LATERAL[got.lateral_first] == side
    assert np.isclose(got.final_speed, np.ravel(speed(np.full(1, 6.35)))[0], atol=0.1)


def test_summary_numbers():
    *_, xyz, rot = motions.drive(lambda t: (12 - 3 * t.clip(1) + 3).clip(0), lambda t: 0.01)
    got = meta.channel_classes(xyz, rot, 12.0)
    np.testing.assert_allclose(got.min_accel, -3.0, atol=0.05)
    assert abs(got.lateral_offset) < 0.02  # a steady curve is no offset
    for side in (-1, 1):
        *_, xyz, rot = motions._nudge(8.0, 2.0 * side, 0.5)
        got = meta.channel_classes(xyz, rot, 8.0)
        np.testing.assert_allclose(got.lateral_offset, 2.0 * side, atol=0.02)
        bent = meta.channel_classes(xyz, rot, 8.0, curvature0=0.01)
        np.testing.assert_allclose(bent.lateral_offset, meta.arc_offset(xyz[-1, :2], 0.01), atol=1e-4)


def test_arc_offset_is_the_distance_to_the_circle():
    for curvature in (0.02, -0.05):
        points = np.random.default_rng(0).uniform(-8, 8, (20, 2))
        radius = 1 / curvature
        away = np.hypot(points[:, 0], points[:, 1] - radius)
        want = (abs(radius) - away) * np.sign(curvature)  # inside a left circle is left of the path
        np.testing.assert_allclose(meta.arc_offset(points, curvature), want, atol=1e-4)


def test_leading_axes_are_kept():
    *_, xyz, rot = motions.batch("brake", 6)
    speed0 = np.linspace(2, 15, 6)
    flat = meta.channel_classes(xyz, rot, speed0)
    split = meta.channel_classes(xyz.reshape(2, 3, 64, 3), rot.reshape(2, 3, 64, 3, 3), speed0.reshape(2, 3))
    for field in ("longitudinal_first", "lateral_dominant", "lateral_offset"):
        np.testing.assert_array_equal(getattr(split, field).reshape(6), getattr(flat, field))
