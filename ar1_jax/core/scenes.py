"""Is this a scene? The mistakes that users make with pictures, cameras, poses and units, found before anything runs.

C cameras, T frames. Metres and seconds, ego frame at t0: x forward, y left, z up. Every finding says what came, what
was expected and, where it can be guessed, what went wrong. What an optional field would be needed for is said by
`unchecked`, never passed over in silence."""

import math

import numpy as np

from ar1_jax.core import errors
from ar1_jax.core.types import Scene

CAMERA_NAMES = {
    0: "front left", 1: "front wide", 2: "front right", 3: "rear left", 4: "rear tele", 5: "rear right",
    6: "front tele",
}  # fmt: skip
HISTORY, STEP = 16, 0.1  # poses and seconds between them
MAX_SPEED = 70.0  # m/s, 250 km/h
MAX_REVERSE = 5.0  # m in the 1.5 s of history; nobody reverses at 12 km/h
MAX_JUMP = 3.0  # m/s between two steps of 0.1 s: 3 g
MOVING = 2.0  # m in 1.5 s; directions are judged above this
TIME_SLACK = 0.051  # s that a frame may be off its place: half a step


def check(scene: Scene, where: str = "scene") -> None:
    """SceneError listing every problem of the scene; returns when there is none."""
    errors.raise_all(problems(scene), where, errors.SceneError)


def problems(scene: Scene) -> list[str]:
    """All findings, each beginning with the field it is about."""
    cameras = len(np.atleast_1d(scene.camera_ids))
    return [
        *image_problems(scene.images, cameras),
        *camera_problems(scene.camera_ids),
        *history_problems(scene.ego_history_xyz, scene.ego_history_rot),
        *(
            time_problems(scene.frame_times, np.shape(scene.images)[:2])
            if scene.frame_times is not None
            else ()
        ),
        *(calibration_problems(scene.calibration, scene.camera_ids) if scene.calibration is not None else ()),
    ]


def unchecked(scene: Scene) -> list[str]:
    """Which checks could not be made, for want of an optional field."""
    out = []
    if scene.frame_times is None:
        out.append("frame_times is absent: order and end of the frames were not checked")
    if scene.calibration is None:
        out.append("calibration is absent: cameras were not checked against their ids")
    return out


def image_problems(images, cameras: int) -> list[str]:
    """Shape and type of uint8 [C, T, H, W, 3]."""
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3:
        hint = "; channels come last" if images.ndim == 5 and images.shape[2] == 3 else ""
        return [f"images: shape {list(images.shape)}, expected [C, T, H, W, 3]{hint}"]
    out = []
    if images.dtype != np.uint8:
        out.append(f"images: {images.dtype}, expected uint8 with values 0 to 255")
    if images.shape[0] != cameras:
        out.append(f"images: {images.shape[0]} cameras, but {cameras} camera_ids")
    if images.size == 0:
        out.append(f"images: shape {list(images.shape)} holds no pixel")
    elif min(images.shape[2:4]) < 32:
        out.append(f"images: {images.shape[3]}x{images.shape[2]} pixels, at least 32x32 are needed")
    return out


def camera_problems(camera_ids) -> list[str]:
    """Ids are known, ascending and each there once."""
    ids = np.atleast_1d(np.asarray(camera_ids))
    known = ", ".join(f"{i} {name}" for i, name in CAMERA_NAMES.items())
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        return [f"camera_ids: {ids.dtype} {list(ids.shape)}, expected integers [C]"]
    out = [f"camera_ids: {i} is unknown; known: {known}" for i in ids.tolist() if i not in CAMERA_NAMES]
    if len(set(ids.tolist())) < len(ids):
        out.append(f"camera_ids: {ids.tolist()} names a camera twice")
    elif (np.diff(ids) < 0).any():
        out.append(
            f"camera_ids: {ids.tolist()} out of order; sort cameras and images by id: {sorted(ids.tolist())}"
        )
    return out


def history_problems(xyz, rot) -> list[str]:
    """Poses [16, 3] m and [16, 3, 3], 10 Hz, the last one the origin with the identity, in the ego frame."""
    xyz, rot, out = np.asarray(xyz), np.asarray(rot), []
    for name, array, shape in (("xyz", xyz, (HISTORY, 3)), ("rot", rot, (HISTORY, 3, 3))):
        if array.shape != shape:
            what = f"{list(shape)} ({HISTORY} rows at 10 Hz, the last one t0)"
            out.append(f"ego_history_{name}: shape {list(array.shape)}, expected {what}")
        elif not np.isfinite(array.astype(np.float64)).all():
            out.append(f"ego_history_{name}: holds values that are not finite")
    if out:
        return out
    xyz, rot = xyz.astype(np.float64), rot.astype(np.float64)
    out = rotation_problems(rot)
    return [*out, *(position_problems(xyz) or ([] if out else heading_problems(xyz, rot)))]


def rotation_problems(rot: np.ndarray) -> list[str]:
    """Every matrix [N, 3, 3] is orthonormal with determinant 1, and the last one is the identity."""
    error = np.abs(np.einsum("nji,njk->nik", rot, rot) - np.eye(3)).max((1, 2))
    bad = np.flatnonzero(error > 1e-2)
    if len(bad):
        return [
            f"ego_history_rot: {rows(bad)} no rotation (columns are not orthonormal, off by {error.max():.3g})"
        ]
    mirrored = np.flatnonzero(np.linalg.det(rot) < 0)
    if len(mirrored):
        return [
            f"ego_history_rot: {rows(mirrored)} a mirror image (determinant -1); one axis has its sign wrong"
        ]
    if np.abs(rot[-1] - np.eye(3)).max() > 1e-2:
        first = " The first row is: rows are reversed." if np.abs(rot[0] - np.eye(3)).max() < 1e-2 else ""
        return [
            f"ego_history_rot: the last row (t0) is not the identity.{first} Give poses in the ego frame at t0"
        ]
    return []


def position_problems(xyz: np.ndarray) -> list[str]:
    """Ends at the origin; moves along x, forwards, steadily, at a speed that a car can have."""
    reach = np.linalg.norm(xyz[0] - xyz[-1])
    if np.abs(xyz[-1]).max() > 1e-2:
        first = " The first row is: rows are reversed." if np.abs(xyz[0]).max() < 1e-2 and reach > 0.1 else ""
        return [f"ego_history_xyz: the last row (t0) is {short(xyz[-1])}, expected the origin.{first} "
                "Give poses in the ego frame at t0"]  # fmt: skip
    step = np.linalg.norm(np.diff(xyz, axis=0), axis=1)
    speed = np.median(step) / STEP
    if speed > MAX_SPEED:
        unit = "millimetres" if speed > 1500 else "centimetres" if speed > 300 else "feet, or not at 10 Hz"
        return [f"ego_history_xyz: {speed:.0f} m/s; metres at 10 Hz are expected (are these {unit}?)"]
    x, y, z = np.abs(xyz[0] - xyz[-1])
    if reach > MOVING and z > 2 * max(x, y):
        return ["ego_history_xyz: moves along z; the ego frame is expected (x forward, y left, z up), "
                "this looks like a camera frame (z forward)"]  # fmt: skip
    if reach > MOVING and y > 2 * max(x, z):
        return [
            "ego_history_xyz: moves along y; x points forward (is this a map frame, or x right and y forward?)"
        ]
    if xyz[0, 0] > MAX_REVERSE:
        return [f"ego_history_xyz: begins {xyz[0, 0]:.1f} m ahead of where it ends; frames are reversed in time, "
                "or x points backwards"]  # fmt: skip
    jumps = np.abs(np.diff(step)) / STEP
    if jumps.max() > MAX_JUMP:
        at = int(jumps.argmax()) + 1
        return [f"ego_history_xyz: speed changes by {jumps.max():.1f} m/s at row {at} within 0.1 s; "
                "a row is missing, doubled or out of order"]  # fmt: skip
    return []


def heading_problems(xyz: np.ndarray, rot: np.ndarray) -> list[str]:
    """Where the car moves, it moves along its own x axis."""
    move = np.diff(xyz, axis=0)
    length = np.linalg.norm(move, axis=1)
    fast = length > MOVING / 15
    if fast.sum() < 4:
        return []
    heading = (rot[:-1, :, 0] + rot[1:, :, 0])[fast]
    cosine = np.einsum("ni,ni->n", move[fast], heading) / (
        length[fast] * np.linalg.norm(heading, axis=1).clip(1e-6)
    )
    angle = math.degrees(math.acos(float(np.clip(np.median(np.abs(cosine)), 0, 1))))
    if angle > 30:
        return [f"ego_history_rot: the car would move {angle:.0f} deg off its own x axis; rotations must take ego "
                "axes to the frame of t0 (are they transposed, or a camera's?)"]  # fmt: skip
    return []


def time_problems(frame_times, shape: tuple[int, ...]) -> list[str]:
    """Seconds [C, T] from t0: ascending to 0, one step of 0.1 s apart."""
    times = np.asarray(frame_times, np.float64)
    if times.shape != tuple(shape):
        return [f"frame_times: shape {list(times.shape)}, expected {list(shape)} like the images"]
    if not np.isfinite(times).all():
        return ["frame_times: holds values that are not finite"]
    if np.abs(times).max() > 100:
        return [f"frame_times: {np.abs(times).max():.6g} is too far from t0; seconds from t0 are expected "
                "(are these micro- or milliseconds, or absolute?)"]  # fmt: skip
    if (np.diff(times, axis=1) < 0).any():
        back = (np.diff(times, axis=1) < 0).all()
        return [f"frame_times: {'reversed' if back else 'out of order'}; frames go from the oldest to t0"]
    out = []
    late = np.flatnonzero(np.abs(times[:, -1]) > TIME_SLACK)
    if len(late):
        out.append(
            f"frame_times: the last frame of camera {rows(late, 'index')} at {times[late[0], -1]:+.3f} s; "
            "frames end at t0 (0 s)"
        )
    wanted = STEP * (np.arange(times.shape[1]) - times.shape[1] + 1)
    off = np.abs(times - times[:, -1:] - wanted)
    if not late.size and off.max() > TIME_SLACK:
        out.append(f"frame_times: {short(times[off.max(1).argmax()])} s, expected 10 Hz: {short(wanted)} s")
    return out


def calibration_problems(calibration, camera_ids) -> list[str]:
    """One model a camera; rig-from-camera is rigid, in metres, and looks to the side that the camera's id says."""
    ids = np.atleast_1d(np.asarray(camera_ids)).tolist()
    if len(calibration) != len(ids):
        return [f"calibration: {len(calibration)} cameras, but {len(ids)} camera_ids"]
    out = []
    for index, (camera, camera_id) in enumerate(zip(calibration, ids, strict=True)):
        if camera.rig_from_camera is not None:
            found = mounting_problem(np.asarray(camera.rig_from_camera, np.float64), camera_id)
            out += [f"calibration[{index}].rig_from_camera: {found}"] if found else []
    return out


def mounting_problem(matrix: np.ndarray, camera_id: int) -> str:
    """What is wrong with one camera's [4, 4], or "". Its third column is the optical axis in the rig."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return f"shape {list(matrix.shape)}, expected finite [4, 4]"
    turn, axis = matrix[:3, :3], matrix[:3, 2]
    if np.abs(turn.T @ turn - np.eye(3)).max() > 1e-2 or np.linalg.det(turn) < 0:
        return "its upper left 3x3 is no rotation"
    if np.abs(matrix[:3, 3]).max() > 20:
        return f"{short(matrix[:3, 3])} from the rig's origin; metres are expected"
    if abs(axis[2]) > 0.7:
        return (
            "the camera would look at the sky or the ground; camera axes are x right, y down, z forward "
            "(is it the inverse, or are these rig axes?)"
        )
    sideways = {0: 1, 2: -1, 3: 1, 5: -1}.get(camera_id)
    ahead = {1: 1, 6: 1, 4: -1}.get(camera_id)
    if (sideways and sideways * axis[1] < -0.2) or (ahead and ahead * axis[0] < 0.3):
        name, degrees = CAMERA_NAMES[camera_id], math.degrees(math.atan2(axis[1], axis[0]))
        return (
            f"it looks {degrees:+.0f} deg to the left of straight ahead, which is not {name} (id {camera_id})"
        )
    return ""


def rows(indices: np.ndarray, word: str = "row") -> str:
    """'row 3 is' or 'rows 3, 4, 5, ... are', for a finding's subject."""
    listed = ", ".join(str(int(i)) for i in indices[:4]) + (", ..." if len(indices) > 4 else "")
    return f"{word}s {listed} are" if len(indices) > 1 else f"{word} {listed} is"


def short(values) -> str:
    """A few numbers, readable."""
    return "(" + ", ".join(f"{float(v):.3g}" for v in np.ravel(values)) + ")"
