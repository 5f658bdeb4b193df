"""Scenes as users bring them: a folder with pictures and a scene.json (docs/scene_folder.md).

C cameras, T frames. Two kinds of scene.json: a scene (frames and ego history at one t0) and a recording (frames and ego
poses with time stamps; any t0 of it is a scene, `recording.py`). Everything is validated before it is used; one
SceneError lists all problems of a folder, each with its key. Not here: what a scene must be (core/scenes.py), resizing
to what a policy wants (images)."""

import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ar1_jax.core import errors, scenes
from ar1_jax.core.types import Scene
from ar1_jax.data import recording, scene_json

FILE = "scene.json"
RELEASED_FRAMES = 4
STALE = 0.15  # s that a frame may be older than wanted before it is said
SCENE_KEYS = {"cameras", "ego_history", "route", "question", "future", "name", "license", "source", "notes"}
CAMERA_KEYS = {"id", "name", "frames", "calibration"}
FRAME_KEYS = {"file", "time"}
HISTORY_KEYS = {"xyz", "rot", "quat_xyzw"}


class Example(NamedTuple):
    """A scene with its name, and what is known beside it: for figures and measures, never for the policy.

    future_xyz: float32 [64, 3] m, the way really driven, or None. notes: remarks for the user. agents: float32
    [M, 64, 7] boxes (world.api.AGENT_FIELDS) or None. lanes: lines [N, 2] m. trace: the reasoning held to be right."""

    name: str
    scene: Scene
    future_xyz: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    agents: np.ndarray | None = None
    lanes: tuple[np.ndarray, ...] = ()
    trace: str | None = None


def load_folder(
    path: str | os.PathLike, *, t0: float | None = None, frames: int | None = None
) -> list[Example]:
    """The scene of a folder with a scene.json, or one a subfolder, in the order of their names.

    t0: s after the first frame, for recordings only (default: recording.choose_t0). frames: how many a camera (default:
    4 of a recording, all of a scene). Raises SceneError with every problem of a scene.json."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise errors.SceneError(f"{folder}: no such folder; a folder with pictures and a {FILE} is expected")
    found = [folder] if (folder / FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{FILE}"))
    if not found:
        raise errors.SceneError(f"{folder}: has no {FILE}, nor has a folder in it; see docs/scene_folder.md")
    return [load_one(one, t0, frames) for one in found]


def load_one(folder: pathlib.Path, t0: float | None, frames: int | None) -> Example:
    """One folder -> Example; what `load_folder` does for each."""
    where, problems = str(folder / FILE), []
    raw = read_json(folder / FILE)
    if "egomotion" in raw:
        example = from_recording(folder, raw, t0, frames or RELEASED_FRAMES, problems)
    elif t0 is not None:
        raise errors.SceneError(
            f"{where}: t0 can be chosen in a recording (key egomotion) only; this is one scene"
        )
    else:
        example = from_scene(folder, raw, frames, problems)
    if example is not None:
        problems += scenes.problems(example.scene)
    errors.raise_all(problems, where, errors.SceneError)
    return example


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file; SceneError where it is none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise errors.SceneError(f"{path}: cannot be read ({e})") from e
    except json.JSONDecodeError as e:
        raise errors.SceneError(
            f"{path}: line {e.lineno}, column {e.colno}: {e.msg}; JSON is expected"
        ) from e
    if not isinstance(raw, dict):
        raise errors.SceneError(f"{path}: holds a {type(raw).__name__}, an object with keys is expected")
    return raw


def from_scene(folder: pathlib.Path, raw: dict, frames: int | None, problems: list[str]) -> Example | None:
    """The plain form; appends to `problems` and returns None where arrays cannot be made."""
    scene_json.unknown_keys(raw, SCENE_KEYS, "", problems)
    history = raw.get("ego_history")
    if not isinstance(history, dict):
        problems.append("ego_history: missing; an object with xyz [16, 3] and rot [16, 3, 3] is expected")
        history = {}
    scene_json.unknown_keys(history, HISTORY_KEYS, "ego_history.", problems)
    xyz = scene_json.numbers(history, "xyz", (16, 3), problems, "ego_history.") if history else None
    rot = scene_json.read_rotations(history, problems) if history else None
    listed = listed_cameras(raw, frames, problems)
    ids = scene_json.camera_ids([camera_id for camera_id, *_ in listed], problems)
    images = scene_json.read_images(folder, [files for _, files, _, _ in listed], problems)
    times = scene_json.read_times([times for *_, times, _ in listed], problems)
    keys = [f"cameras[{i}].calibration" for i in range(len(listed))]
    calibration = scene_json.read_calibration([c for *_, c in listed], keys, problems)
    future = scene_json.numbers(raw, "future", (64, 3), problems) if raw.get("future") is not None else None
    texts = {name: scene_json.text(raw, name, problems) for name in ("route", "question")}
    if images is None or ids is None or xyz is None or rot is None:  # judge at least what is there
        problems += scenes.camera_problems(ids) if ids is not None else []
        problems += scenes.history_problems(xyz, rot) if xyz is not None and rot is not None else []
        return None
    scene = Scene(images, ids, xyz, rot, **texts, frame_times=times, calibration=calibration)
    return Example(str(raw.get("name") or folder.name), scene, future, tuple(scenes.unchecked(scene)))


def listed_cameras(raw: dict, frames: int | None, problems: list[str]) -> list[tuple]:
    """(id, [(key, file)], [time], calibration) of each camera, its last `frames` frames where that is given."""
    listed = []
    for index, camera in enumerate(scene_json.objects(raw, "cameras", problems)):
        key = f"cameras[{index}]"
        scene_json.unknown_keys(camera, CAMERA_KEYS, f"{key}.", problems)
        shots = list(enumerate(scene_json.objects(camera, "frames", problems, f"{key}.")))
        for number, shot in shots:
            scene_json.unknown_keys(shot, FRAME_KEYS, f"{key}.frames[{number}].", problems)
        shots = shots[-frames:] if frames else shots
        files = [(f"{key}.frames[{number}].file", shot.get("file")) for number, shot in shots]
        listed.append(
            (camera.get("id"), files, [shot.get("time") for _, shot in shots], camera.get("calibration"))
        )
    counts = [len(files) for _, files, _, _ in listed]
    if len(set(counts)) > 1:
        problems.append(f"cameras: {counts} frames; every camera needs the same number")
    return listed


def from_recording(folder: pathlib.Path, raw: dict, t0, frames: int, problems: list[str]) -> Example | None:
    """One moment of a recording; cameras that share an id or hold no frame are problems."""
    poses = scene_json.read_poses(raw, problems)
    cameras = scene_json.objects(raw, "cameras", problems)
    indexed = sorted(enumerate(cameras), key=lambda item: str(item[1].get("reference_index")))
    ids = scene_json.camera_ids(
        [camera.get("reference_index") for _, camera in indexed], problems, "reference_index"
    )
    shots = [scene_json.objects(camera, "frames", problems, f"cameras[{i}].") for i, camera in indexed]
    stamps = [
        scene_json.read_stamps(s, f"cameras[{i}].frames", problems)
        for (i, _), s in zip(indexed, shots, strict=True)
    ]
    if problems or poses is None:
        return None
    moment = recording.choose_t0(poses, stamps) if t0 is None else recording.snap(float(t0), stamps[0])
    try:
        xyz, rot, future = recording.ego_at(poses, moment)
    except ValueError as e:
        problems.append(f"egomotion: {e}")
        return None
    chosen = [recording.frames_at(stamp, moment, frames) for stamp in stamps]
    times = np.stack([stamp[index] for stamp, index in zip(stamps, chosen, strict=True)]) - moment
    files = [
        [(f"cameras[{i}].frames[{n}].file", shot[n].get("file")) for n in index]
        for (i, _), shot, index in zip(indexed, shots, chosen, strict=True)
    ]
    notes = [f"t0 = {moment:.3f} s of the recording"]
    off = np.abs(times - recording.STEP * np.arange(1 - frames, 1)).max()
    if off > STALE:
        notes.append(
            f"frames up to {off:.1f} s off their time, some shown again: a test of plumbing, not of driving"
        )
    if len(poses.times) == 1:
        notes.append("egomotion holds one pose: the car is taken to stand still")
    images = scene_json.read_images(folder, files, problems)
    keys = [f"cameras[{i}]" for i, _ in indexed]
    mounts = [scene_json.recorded_calibration(indexed[n][1], key, problems) for n, key in enumerate(keys)]
    calibration = None if problems else scene_json.read_calibration(mounts, keys, problems)
    if images is None or ids is None:
        problems += scenes.camera_problems(ids) if ids is not None else []
        return None
    scene = Scene(images, ids, xyz, rot, frame_times=times if off <= STALE else None, calibration=calibration)
    return Example(str(raw.get("clip_id") or folder.name), scene, future, tuple(notes))
