"""Ways drawn on a camera's picture: bands on the ground, as that camera would see them lying on the road.

N points of a way, K samples, W waypoints. Metres in the rig frame (x forward, y left, z up), pixels of the picture with
the centre of the first one at (0.5, 0.5). Nothing hides a band: what stands on the road is not known here.
"""

from collections.abc import Sequence

import jax
import numpy as np

from ar1_jax.geometry import cameras

BAND = 0.6  # m; six bands of a car's width would hide each other
ALL_BANDS = 0.7  # opacity where all samples lie one upon another
project, onto_plane = (
    jax.jit(cameras.project),
    jax.jit(cameras.onto_plane),
)  # one program a lens, not one an operation
FINER = 8  # points for each waypoint, so that a straight stretch bends as a wide lens bends it


def looking_there(calibration: Sequence | None, trajectories: np.ndarray, count: int = 2) -> list[int]:
    """Indices, ascending, of at most `count` cameras with some of the waypoints [K, W, 3] in their picture: those whose
    axis points most nearly to where the ways lead. Cameras without a mounting see nothing."""
    ways, angles = np.asarray(trajectories, np.float32), {}
    for index, camera in enumerate(calibration or ()):
        if camera.rig_from_camera is None or not np.asarray(project(camera, ways)[1]).any():
            continue
        lead = ways.reshape(-1, 3).mean(0)
        angles[index] = -float(np.asarray(camera.rig_from_camera)[:3, 2] @ lead)
    return sorted(sorted(angles, key=angles.get)[:count])


def draw(box, camera, size: tuple[int, int], trajectories, rotations, kinds, truth=None) -> None:
    """Bands, middle lines and a dot each second of all kinds into matplotlib axes that show a picture by imshow.

    size: (height, width) of the picture, which may differ from the one that the calibration holds for. trajectories
    [K, W, 3], rotations [K, W, 3, 3], kinds: groups.Kind of their indices, truth: [W, 3] or None."""
    height, width = size
    shrink = np.array([width / camera.width, height / camera.height])
    put = lambda pixels: pixels * shrink - 0.5  # imshow counts from the first pixel's centre
    alpha = 1 - (1 - ALL_BANDS) ** (1 / len(trajectories))
    for kind in kinds:
        for index in kind.members:
            way, turn = trajectories[index], rotations[index]
            for outline in map(put, band(camera, way, turn)):
                box.fill(*outline.T, color=kind.color, alpha=alpha, lw=0, zorder=3)
            for line in map(put, runs(camera, dense(way))):
                box.plot(*line.T, color="white", lw=2.2, alpha=0.5, zorder=4)
                box.plot(*line.T, color=kind.color, ls=kind.dash, lw=1.3, zorder=5)
            for dot in map(put, runs(camera, way[9::10])):
                box.plot(*dot.T, ".", color=kind.color, mec="white", mew=0.3, ms=4.5, zorder=6)
    if truth is not None:
        for line in map(put, runs(camera, dense(truth))):
            box.plot(*line.T, color="black", ls=(0, (1, 1.4)), lw=1.3, zorder=7)
    box.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def dense(values: np.ndarray, first: Sequence | None = None) -> np.ndarray:
    """values [W, ...] with `first` (zeros by default) before them, FINER points for each by linear interpolation."""
    values = np.asarray(values, np.float32)
    start = np.zeros_like(values[0]) if first is None else np.asarray(first, np.float32)
    knots = np.concatenate([start[None], values])
    at = np.arange(FINER * len(values) + 1) / FINER
    low = np.minimum(at.astype(int), len(values) - 1)
    share = (at - low).reshape(-1, *[1] * (knots.ndim - 1)).astype(np.float32)
    return knots[low] * (1 - share) + knots[low + 1] * share


def band(camera, way: np.ndarray, rotation: np.ndarray) -> list[np.ndarray]:
    """Outlines [M, 2] px of the ground BAND wide along a way [W, 3], across the car's y axis (rotation [W, 3, 3])."""
    across = dense(rotation[:, :, 1], (0.0, 1.0, 0.0)) * (BAND / 2)
    middle = dense(way)
    (left, ahead_left), (right, ahead_right) = (
        [np.asarray(a) for a in onto_plane(camera, edge)] for edge in (middle + across, middle - across)
    )
    return [np.concatenate([left[run], right[run][::-1]]) for run in stretches(ahead_left & ahead_right)]


def runs(camera, points: np.ndarray) -> list[np.ndarray]:
    """The parts [M, 2] px of a line of points [N, 3] that lie before the camera."""
    pixels, before = (np.asarray(a) for a in onto_plane(camera, np.asarray(points, np.float32)))
    return [pixels[run] for run in stretches(before)]


def stretches(mask: np.ndarray) -> list[slice]:
    """Where mask [N] is True, as slices, each as long as it can be."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
