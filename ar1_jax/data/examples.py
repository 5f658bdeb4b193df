"""Scenes that need no file of yours: of the driving world by number, and the recordings shipped with the package.

M agents. `fit` makes any scene one that a policy can read: its cameras, its number of frames."""

import pathlib
from collections.abc import Sequence

import numpy as np

from ar1_jax.core import errors
from ar1_jax.core.types import CameraModel, Scene
from ar1_jax.data import folder
from ar1_jax.geometry import arcs
from ar1_jax.world import api, families, state

SHIPPED = pathlib.Path(__file__).parents[1] / "assets" / "scenes"
AHEAD, BEHIND = 120.0, 40.0  # m of road drawn


def world(number: int = 0, family: str | None = None, split: str = "test", frames: int = 1) -> folder.Example:
    """Scene `number` of a split of the driving world, `frames` frames a camera at 10 Hz; `family` draws it from one
    family only (families.names()). ConfigError for an unknown family or split."""
    if family is not None:
        errors.one_of(family, families.names(), "family")
    errors.one_of(split, ("train", "validation", "test"), "split")
    batch = api.make_batch(
        api.split_seeds(split, 1, number), None if family is None else [family], frames=frames
    )
    return of_batch(batch, 0, f"{family or 'world'}_{number}", api.texts(batch)[0])


def of_batch(batch: dict, row: int, name: str, text: str) -> folder.Example:
    """Row `row` of a world batch (world.api.make_batch) as an Example."""
    frames = batch["images"].shape[2]
    scene = Scene(
        batch["images"][row], batch["camera_ids"], batch["ego_history_xyz"][row], batch["ego_history_rot"][row],
        frame_times=np.tile(0.1 * np.arange(1 - frames, 1), (len(batch["camera_ids"]), 1)),
        calibration=api.calibration(),
    )  # fmt: skip
    agents = np.array(batch["agents"][row])
    agents[agents[..., api.AGENT_FIELDS.index("valid")] == 0] = np.nan
    return folder.Example(
        name, scene, batch["ego_future_xyz"][row], (), agents, lane_lines(batch["road"][row]), text
    )


def lane_lines(road: np.ndarray) -> tuple[np.ndarray, ...]:
    """road [5] (world.api.ROAD_FIELDS) -> kerbs, lane marks and, where there is one, the stop line: [N, 2] m each."""
    curvature, right, left, stop_line, _ = np.asarray(road, np.float32)
    along = np.linspace(-BEHIND, AHEAD, 81, dtype=np.float32)
    offsets = (right, -state.LANE / 2, state.LANE / 2, left)
    lines = [np.stack(arcs.to_cartesian(along, np.float32(d), curvature)[:2], -1) for d in offsets]
    if stop_line < api.NO_LINE:
        across = np.linspace(-state.LANE / 2, state.LANE / 2, 2, dtype=np.float32)
        lines.append(np.stack(arcs.to_cartesian(np.full_like(across, stop_line), across, curvature)[:2], -1))
    return tuple(np.asarray(line) for line in lines)


def shipped(name: str = "comma2k19", frames: int | None = None) -> folder.Example:
    """A recording of the package. ConfigError for an unknown name."""
    known = sorted(p.parent.name for p in SHIPPED.glob(f"*/{folder.FILE}"))
    example = folder.load_folder(SHIPPED / errors.one_of(name, known, "example"), frames=frames)[0]
    return example._replace(name=name)


def fit(scene: Scene, cameras: Sequence[int], frames: int, fill: bool = False) -> tuple[Scene, list[str]]:
    """The scene with the last `frames` frames of those cameras only, and remarks on what was changed.

    Too few frames are made up by the oldest one; with fill=True an absent camera is black, else it stays absent.
    SceneError where none of its cameras is among `cameras`."""
    ids, notes = [int(i) for i in scene.camera_ids], []
    keep = [i for i in ids if i in cameras]
    if not keep:
        raise errors.SceneError(f"cameras {ids}: the policy knows only {list(cameras)}")
    if dropped := [i for i in ids if i not in keep]:
        notes.append(f"cameras {dropped} are left out: the policy was not trained with them")
    images = np.asarray(scene.images)[[ids.index(i) for i in keep]]
    have = images.shape[1]
    if have < frames:
        notes.append(f"{have} frame(s) a camera, {frames} expected: the oldest is shown again")
    index = np.maximum(np.arange(have - frames, have), 0)
    images = images[:, index]
    pick = lambda values: None if values is None else [values[ids.index(i)] for i in keep]
    times, calibration = pick(scene.frame_times), pick(scene.calibration)
    if missing := [i for i in cameras if i not in keep]:
        shown = "black" if fill else "absent"
        notes.append(f"cameras {missing} of the policy are {shown}")
        if fill:
            full = np.zeros((len(cameras), *images.shape[1:]), np.uint8)
            full[[list(cameras).index(i) for i in keep]] = images
            if calibration is not None:  # a camera that is not there is mounted nowhere
                nowhere = CameraModel("pinhole", *images.shape[3:1:-1])
                calibration = [calibration[keep.index(i)] if i in keep else nowhere for i in cameras]
            images, keep, times = full, list(cameras), None
    times = None if times is None or have < frames else np.stack(times)[:, index]
    return scene.replace(
        images=images, camera_ids=np.asarray(keep, np.int32), frame_times=times,
        calibration=None if calibration is None else tuple(calibration),
    ), notes  # fmt: skip
