"""Motions to encode: speed and curvature over time, integrated finely, as history and future at 10 Hz."""

import numpy as np

FINE = 20  # integration steps per 0.1 s
KINDS = ("straight", "cruise", "tight", "brake", "start", "nudge", "creep", "stopped")


def pack(x, y, yaw):
    """80 poses, row 15 at the origin -> history xyz, rot [16, ...], future xyz, rot [64, ...], float32."""
    zero = np.zeros_like(x)
    xyz = np.stack([x, y, zero], -1).astype("float32")
    cos, sin = np.cos(yaw), np.sin(yaw)
    rows = (cos, -sin, zero), (sin, cos, zero), (zero, zero, zero + 1)
    rot = np.stack([np.stack(r, -1) for r in rows], -2).astype("float32")
    return xyz[:16], rot[:16], xyz[16:], rot[16:]


def drive(speed, curvature):
    """speed(t) m/s and curvature(t) 1/m over t in -1.5 .. 6.4 s -> pack(...)."""
    t = np.arange(-15 * FINE, 64 * FINE + 1) / (10 * FINE)
    v = speed(t) + 0 * t

    def total(rate):
        area = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / (20 * FINE))])
        return area - area[15 * FINE]

    yaw = total(curvature(t) * v)
    return pack(*(a[::FINE] for a in (total(v * np.cos(yaw)), total(v * np.sin(yaw)), yaw)))


def _nudge(speed, sideways, start, duration=5.0):
    t = np.arange(-15, 65) / 10
    u = np.clip((t - start) / duration, 0, 1)
    slope = sideways * np.pi / duration * np.sin(2 * np.pi * u)
    return pack(speed * t, sideways * (1 - np.cos(2 * np.pi * u)) / 2, np.arctan2(slope, speed))


def draw(kind, rng):
    """One motion of a kind: speeds 0-15 m/s, curvature ±0.05 1/m but at most 3 m/s² sideways."""
    v, start, side = rng.uniform(2, 15), rng.uniform(0, 2), rng.choice([-1, 1])
    k = rng.uniform(-1, 1) * min(0.05, 3 / v**2)
    decel, accel, slow = rng.uniform(1, 5), rng.uniform(0.5, 2.5), rng.uniform(0, 2)
    ramp = lambda t: np.clip(t - start, 0, None)
    return {
        "straight": lambda: drive(lambda t: v, lambda t: 0.0),
        "cruise": lambda: drive(lambda t: v, lambda t: k),
        "tight": lambda: drive(lambda t: v / 2, lambda t: 0.05 * side),
        "brake": lambda: drive(lambda t: np.clip(v - decel * ramp(t), 0, None), lambda t: k / 3),
        "start": lambda: drive(lambda t: np.clip(accel * ramp(t), 0, 12), lambda t: 0.0),
        "nudge": lambda: _nudge(8.0, 2.0 * side, start / 2),
        "creep": lambda: drive(lambda t: slow, lambda t: k),
        "stopped": lambda: drive(lambda t: 0.0, lambda t: 0.0),
    }[kind]()


def batch(kind, count, seed=0):
    """`count` motions of a kind: history xyz [n, 16, 3], rot, future xyz [n, 64, 3], rot."""
    rng = np.random.default_rng(seed)
    return tuple(np.stack(x) for x in zip(*(draw(kind, rng) for _ in range(count)), strict=True))
