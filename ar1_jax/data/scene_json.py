"""Fields of a scene.json, read one by one: the value, or None (or nothing) and a finding appended to `problems`.

C cameras, T frames, N rows. Findings begin with the key they are about. What the values mean together is
core/scenes.py's to judge, and what the two kinds of file are made of is folder.py's."""

import pathlib
from typing import Any

import numpy as np

from ar1_jax.core import errors, scenes
from ar1_jax.core.types import CameraModel
from ar1_jax.data import recording

MAX_SIDE = 8192  # px; larger pictures are refused before they are read


def unknown_keys(raw: dict, known: set[str], prefix: str, problems: list[str]) -> None:
    """A finding for each key that nobody reads."""
    for key in raw:
        if key not in known:
            problems.append(f"{prefix}{key}: unknown key{errors.nearest(key, known)}")


def objects(raw: dict, key: str, problems: list[str], prefix: str = "") -> list[dict]:
    """raw[key] as a list of at least one object; [] and a finding where it is not."""
    value = raw.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        problems.append(f"{prefix}{key}: a list of at least one object is expected, got {brief(value)}")
        return []
    return value


def text(raw: dict, key: str, problems: list[str]) -> str | None:
    """raw[key] as text or None."""
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        problems.append(f"{key}: text is expected, got {brief(value)}")
        return None
    return value


def numbers(
    raw: dict, key: str, shape: tuple[int, ...], problems: list[str], prefix: str = ""
) -> np.ndarray | None:
    """raw[key] as float32; None and a finding where it is missing, ragged, no numbers, or has rows of a wrong shape."""
    try:
        array = np.asarray(raw[key], np.float64)
    except KeyError:
        problems.append(f"{prefix}{key}: missing; numbers {list(shape)} are expected")
        return None
    except (TypeError, ValueError):
        problems.append(
            f"{prefix}{key}: {brief(raw[key])}; numbers {list(shape)} are expected, all rows alike"
        )
        return None
    if array.shape[1:] != shape[1:] or array.ndim != len(shape):
        problems.append(f"{prefix}{key}: shape {list(array.shape)}, expected {list(shape)}")
        return None
    return array.astype(np.float32)


def read_rotations(history: dict, problems: list[str]) -> np.ndarray | None:
    """ego_history.rot [16, 3, 3], or quat_xyzw [16, 4] turned into it."""
    if "quat_xyzw" not in history:
        return numbers(history, "rot", (16, 3, 3), problems, "ego_history.")
    if "rot" in history:
        problems.append("ego_history: has both rot and quat_xyzw; one of them is expected")
        return None
    quaternions = numbers(history, "quat_xyzw", (16, 4), problems, "ego_history.")
    return None if quaternions is None else unit(quaternions, "ego_history.quat_xyzw", problems)


def unit(quaternions: np.ndarray, key: str, problems: list[str]) -> np.ndarray | None:
    """Rotations float32 of quaternions [N, 4] whose length is 1."""
    length = np.linalg.norm(quaternions.astype(np.float64), axis=-1)
    wrong = np.flatnonzero(~(np.abs(length - 1) < 1e-2))
    if len(wrong):
        problems.append(f"{key}: {scenes.rows(wrong)} of length {length[wrong[0]]:.3g}; unit quaternions (x, y, z, w) "
                        "are expected")  # fmt: skip
        return None
    return recording.matrix(quaternions.astype(np.float64)).astype(np.float32)


def camera_ids(values: list, problems: list[str], key: str = "id") -> np.ndarray | None:
    """Ids as int32 [C]; order and range are the scene's own check."""
    wrong = [
        f"cameras[{i}].{key}" for i, v in enumerate(values) if isinstance(v, bool) or not isinstance(v, int)
    ]
    if wrong:
        known = ", ".join(f"{i} {name}" for i, name in scenes.CAMERA_NAMES.items())
        problems.append(f"{', '.join(wrong)}: a whole number is expected: {known}")
    return None if wrong or not values else np.asarray(values, np.int32)


def read_times(times: list[list], problems: list[str]) -> np.ndarray | None:
    """Frame times float64 [C, T], or None where no frame has one; some with and some without is a finding."""
    given = [t is not None for row in times for t in row]
    if not any(given):
        return None
    flat = [t for row in times for t in row]
    if not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in flat):
        problems.append("cameras[].frames[].time: seconds from t0 are expected on all frames or on none")
        return None
    return np.asarray(times, np.float64) if len({len(row) for row in times}) == 1 else None


def read_stamps(shots: list[dict], key: str, problems: list[str]) -> np.ndarray:
    """timestamp_us of frames or poses -> float64 s, strictly ascending."""
    values = [shot.get("timestamp_us") for shot in shots]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        problems.append(f"{key}: every entry needs a number timestamp_us")
        return np.zeros(0)
    stamps = np.asarray(values, np.float64) / 1e6
    back = np.flatnonzero(np.diff(stamps) <= 0)
    if len(back):
        all_back = len(back) == len(stamps) - 1
        problems.append(
            f"{key}: timestamp_us {'runs backwards' if all_back else f'does not grow at entry {back[0] + 1}'}"
        )
    elif len(stamps) > 1 and not 1e-3 < np.median(np.diff(stamps)) < 10:
        problems.append(
            f"{key}: entries {np.median(np.diff(stamps)):.3g} s apart; timestamp_us is in microseconds"
        )
    return stamps


def read_poses(raw: dict, problems: list[str]) -> recording.Poses | None:
    """egomotion -> Poses; None and findings where it cannot be used."""
    rows, before = objects(raw, "egomotion", problems), len(problems)
    times = read_stamps(rows, "egomotion", problems)
    columns = {name: [row.get(name) for row in rows] for name in ("xyz", "quat_xyzw")}
    numbers(columns, "xyz", (len(rows), 3), problems, "egomotion[].")
    quaternions = numbers(columns, "quat_xyzw", (len(rows), 4), problems, "egomotion[].")
    if quaternions is not None:
        unit(quaternions, "egomotion[].quat_xyzw", problems)
    if not rows or len(problems) > before:
        return None
    return recording.Poses(
        times, np.asarray(columns["xyz"], np.float64), np.asarray(columns["quat_xyzw"], np.float64)
    )


def read_images(
    folder: pathlib.Path, files: list[list[tuple[str, Any]]], problems: list[str]
) -> np.ndarray | None:
    """Pictures uint8 [C, T, H, W, 3]; grey ones are repeated over the channels. Each file is read once."""
    seen: dict[Any, np.ndarray | None] = {}
    for key, name in (item for row in files for item in row):
        if not isinstance(name, str):
            problems.append(f"{key}: a file name is expected, got {brief(name)}")
        elif name not in seen:
            seen[name] = read_image(folder, name, key, problems)
    pictures = [[seen.get(name) if isinstance(name, str) else None for _, name in row] for row in files]
    if not pictures or any(p is None for row in pictures for p in row):
        return None
    sizes = {p.shape[:2] for row in pictures for p in row}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {p.shape[1]}x{p.shape[0]}" for name, p in seen.items())
        problems.append(f"cameras: frames of different sizes: {listed}; one size is expected")
        return None
    return np.asarray(pictures) if len({len(row) for row in pictures}) == 1 else None


def read_image(folder: pathlib.Path, name: str, key: str, problems: list[str]) -> np.ndarray | None:
    """One picture, uint8 [H, W, 3]; None and a finding where it is missing, outside, too large or no picture."""
    import PIL.Image

    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        problems.append(f"{key}: {name} lies outside the scene's folder")
        return None
    if not path.is_file():
        near = errors.nearest(
            path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        )
        problems.append(f"{key}: {name} is missing{near}")
        return None
    try:
        with PIL.Image.open(path) as picture:
            if max(picture.size) > MAX_SIDE:
                problems.append(
                    f"{key}: {name} has {picture.size[0]}x{picture.size[1]} pixels, at most {MAX_SIDE} a side"
                )
                return None
            if picture.mode not in ("RGB", "L", "P", "RGBA"):
                problems.append(f"{key}: {name} has mode {picture.mode}; 8-bit colour or grey is expected")
                return None
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as e:
        problems.append(f"{key}: {name} cannot be read as a picture ({e})")
        return None


def read_calibration(entries: list, keys: list[str], problems: list[str]) -> tuple[CameraModel, ...] | None:
    """One CameraModel a camera, or None where none is given; some with and some without is a finding."""
    if all(entry is None for entry in entries):
        return None
    models = []
    for entry, key in zip(entries, keys, strict=True):
        try:
            models.append(camera_model(entry))
        except (TypeError, KeyError, ValueError, OverflowError) as e:
            problems.append(f"{key}: {type(e).__name__} {e}; model (pinhole or ftheta), width, height, cx, cy, fx and "
                            "fy or polynomial, rig_from_camera [4, 4] are expected")  # fmt: skip
    return tuple(models) if len(models) == len(entries) else None


def camera_model(entry: dict) -> CameraModel:
    """A calibration entry -> CameraModel; KeyError, TypeError or ValueError where it is not one."""
    known = {"model", "width", "height", "fx", "fy", "cx", "cy", "polynomial", "rig_from_camera"}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown key {unknown[0]}{errors.nearest(unknown[0], known)}")
    if entry["model"] not in ("pinhole", "ftheta"):
        raise ValueError(f"model {entry['model']!r} is not one of pinhole, ftheta")
    needed = ("fx", "fy", "cx", "cy") if entry["model"] == "pinhole" else ("cx", "cy", "polynomial")
    values = {name: entry[name] for name in needed}
    polynomial = tuple(float(v) for v in values.pop("polynomial", ()))
    matrix = np.asarray(entry["rig_from_camera"], np.float32)
    size = {name: int(entry[name]) for name in ("width", "height")}
    if min(size.values()) < 1 or any(float(values[f]) <= 0 for f in ("fx", "fy") if f in values):
        raise ValueError("sizes and focal lengths are positive numbers of pixels")
    floats = {name: float(value) for name, value in values.items()}
    return CameraModel(entry["model"], **size, **floats, polynomial=polynomial, rig_from_camera=matrix)


def recorded_calibration(camera: dict, key: str, problems: list[str]) -> dict | None:
    """A recording's camera (T_rig_camera, intrinsics beside it) as a calibration entry; None where it has none."""
    mount, transform = camera.get("T_rig_camera"), np.eye(4)
    if mount is None:
        return None
    mount = mount if isinstance(mount, dict) else {}
    xyz = numbers({"xyz": [mount.get("xyz")]}, "xyz", (1, 3), problems, f"{key}.T_rig_camera.")
    turn = numbers(
        {"quat_xyzw": [mount.get("quat_xyzw")]}, "quat_xyzw", (1, 4), problems, f"{key}.T_rig_camera."
    )
    turn = None if turn is None else unit(turn, f"{key}.T_rig_camera.quat_xyzw", problems)
    if xyz is None or turn is None:
        return None
    transform[:3, :3], transform[:3, 3] = turn[0], xyz[0]
    names = ("width", "height", "fx", "fy", "cx", "cy")
    model = str(camera.get("model", "pinhole"))
    return {name: camera[name] for name in names if name in camera} | {
        "model": "pinhole" if model.startswith("pinhole") else model,  # "pinhole (undistorted)" and the like
        "rig_from_camera": transform.tolist(),
    }


def brief(value: Any) -> str:
    """A value in a few words."""
    shown = repr(value)
    return (
        "nothing"
        if value is None
        else shown
        if len(shown) < 40
        else f"{type(value).__name__} {shown[:36]}..."
    )
