"""A recording (ego poses and frames with time stamps) -> a scene at any of its moments.

P poses, W = 64 waypoints. Stamps in microseconds, poses rig-to-world, quaternions (x, y, z, w). Positions at 10 Hz by a
natural cubic spline over the poses around t0, rotations by spherical linear interpolation; all in the rig frame at t0,
as the released data are made. Not here: files (folder.py)."""

from typing import NamedTuple

import numpy as np

HISTORY, FUTURE, STEP = 16, 64, 0.1
MARGIN = 1.0  # s of poses used beyond the wanted ones, so that the spline's ends do not matter
MAX_GAP = 0.5  # s between two poses; longer gaps are not interpolated
SLACK = 0.006  # s that a frame may lie after its wanted time


class Poses(NamedTuple):
    """times float64 [P] s ascending, xyz [P, 3] m, quaternions [P, 4] (x, y, z, w), rig to world."""

    times: np.ndarray
    xyz: np.ndarray
    quaternions: np.ndarray


def ego_at(poses: Poses, t0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ego history [16, 3], [16, 3, 3] float32 and future [64, 3], or None where the recording ends before t0 + 6.4 s.

    One pose alone means a car that stands: zeros and identities, no future. ValueError where the history is not
    covered or has a gap."""
    if len(poses.times) == 1:
        return np.zeros((HISTORY, 3), np.float32), np.tile(np.eye(3, dtype=np.float32), (HISTORY, 1, 1)), None
    past = t0 + STEP * np.arange(1 - HISTORY, 1)
    if past[0] < poses.times[0] - 1e-6 or t0 > poses.times[-1] + 1e-6:
        raise ValueError(
            f"t0 = {t0:g} s needs poses from {past[0]:.2f} to {t0:.2f} s, the recording has {poses.times[0]:.2f} to "
            f"{poses.times[-1]:.2f} s"
        )
    xyz, rot = resample(poses, past)
    origin, back = xyz[-1], rot[-1].T
    history = ((xyz - origin) @ back.T).astype(np.float32), (back @ rot).astype(np.float32)
    ahead = t0 + STEP * np.arange(1, FUTURE + 1)
    if ahead[-1] > poses.times[-1] + 1e-6:
        return *history, None
    return *history, ((resample(poses, ahead)[0] - origin) @ back.T).astype(np.float32)


def resample(poses: Poses, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, 3] and rotations [N, 3, 3] at `times` [N]; ValueError where poses are too far apart there."""
    near = (poses.times >= times[0] - MARGIN) & (poses.times <= times[-1] + MARGIN)
    near |= np.convolve(near, [1, 1, 1], "same").astype(bool)  # one pose beyond, where poses are sparse
    knots, xyz, quaternions = poses.times[near], poses.xyz[near], poses.quaternions[near]
    gaps = np.diff(knots)
    inside = (knots[1:] > times[0]) & (knots[:-1] < times[-1])
    if inside.any() and gaps[inside].max() > MAX_GAP:
        at = knots[:-1][inside][gaps[inside].argmax()]
        raise ValueError(
            f"poses lie {gaps[inside].max():.2f} s apart at {at:.2f} s; at most {MAX_GAP} s is interpolated"
        )
    return spline(knots, xyz, times), slerp(knots, quaternions, times)


def spline(knots: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Natural cubic spline through values [P, D] at knots [P], read at `at` [N] -> [N, D]."""
    if len(knots) == 2:
        return values[0] + (values[1] - values[0]) * ((at - knots[0]) / (knots[1] - knots[0]))[:, None]
    h = np.diff(knots)
    system = np.diag(np.r_[1.0, 2 * (h[:-1] + h[1:]), 1.0])
    system += np.diag(np.r_[h[:-1], 0.0], -1) + np.diag(np.r_[0.0, h[1:]], 1)
    slope = np.diff(values, axis=0) / h[:, None]
    ends = np.zeros((1, values.shape[1]))
    bend = np.linalg.solve(
        system, np.concatenate([ends, 6 * np.diff(slope, axis=0), ends])
    )  # second derivatives
    i = np.clip(np.searchsorted(knots, at, "right") - 1, 0, len(h) - 1)
    left, right, width = ((at - knots[i])[:, None], (knots[i + 1] - at)[:, None], h[i][:, None])
    cubic = (bend[i] * right**3 + bend[i + 1] * left**3) / (6 * width)
    return (
        cubic
        + (values[i] / width - bend[i] * width / 6) * right
        + (values[i + 1] / width - bend[i + 1] * width / 6) * left
    )


def slerp(knots: np.ndarray, quaternions: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] between unit quaternions [P, 4] (x, y, z, w) at knots [P], the shorter way round."""
    q = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
    i = np.clip(np.searchsorted(knots, at, "right") - 1, 0, len(knots) - 2)
    share = np.clip((at - knots[i]) / (knots[i + 1] - knots[i]), 0, 1)[:, None]
    a, b = q[i], q[i + 1]
    b = np.where((a * b).sum(-1, keepdims=True) < 0, -b, b)
    angle = np.arccos(np.clip((a * b).sum(-1, keepdims=True), -1, 1))
    small = angle < 1e-6
    safe = np.where(small, 1.0, np.sin(angle))
    wa = np.where(small, 1 - share, np.sin((1 - share) * angle) / safe)
    wb = np.where(small, share, np.sin(share * angle) / safe)
    return matrix(wa * a + wb * b)


def matrix(quaternions: np.ndarray) -> np.ndarray:
    """Quaternions [..., 4] (x, y, z, w), any length but 0 -> rotations [..., 3, 3] in float64."""
    x, y, z, w = np.moveaxis(quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True), -1, 0)
    rows = ((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)))  # fmt: skip
    return np.stack([np.stack(row, -1) for row in rows], -2)


def frames_at(stamps: np.ndarray, t0: float, count: int) -> np.ndarray:
    """Indices [count] of the latest frames at or before t0 - 0.1 (count - 1), ..., t0; 0 where there is none."""
    wanted = t0 + STEP * np.arange(1 - count, 1) + SLACK
    return (np.searchsorted(stamps, wanted, "right") - 1).clip(0)


def snap(t0: float, stamps: np.ndarray) -> float:
    """`t0`, moved back to the latest frame where one lies within a frame's usual time before it."""
    before = stamps[frames_at(stamps, t0, 1)[0]]
    return float(before) if 0 <= t0 - before <= 1.5 * STEP else t0


def choose_t0(poses: Poses, stamps: list[np.ndarray]) -> float:
    """The latest moment with history, a fresh frame of every camera and, if there is one, the whole true future.

    Without such a moment: the first one that has history (the frames are then old, which the caller says)."""
    if len(poses.times) == 1:
        return float(max(0.0, max(s[0] for s in stamps)))
    first = poses.times[0] + STEP * (HISTORY - 1)
    moments = stamps[0][(stamps[0] >= first - 1e-6) & (stamps[0] <= poses.times[-1])]
    complete = moments[moments + STEP * FUTURE <= poses.times[-1]]
    for candidates in (complete, moments):
        if len(candidates):
            return float(candidates[-1])
    return float(min(first + STEP, poses.times[-1]))
