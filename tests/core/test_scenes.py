"""Each mistake that users make is found, named, and nothing is found in a good scene. The scenes are built by hand."""

import numpy as np
import pytest

from ar1_jax.core import errors, scenes
from ar1_jax.core.types import CameraModel, Scene

AHEAD = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)  # camera axes of a camera that looks ahead


def yaw(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def curve(speed=10.0, turn=0.2):
    """A car at `speed` m/s turning at `turn` rad/s: poses of the last 1.5 s in the frame of the last, closed form."""
    t = np.arange(-15, 1) * 0.1
    xyz = np.stack([speed / turn * np.sin(turn * t), speed / turn * (1 - np.cos(turn * t)), 0 * t], -1)
    return xyz.astype(np.float32), np.stack([yaw(turn * x) for x in t]).astype(np.float32)


def mounted(turn, at=(1.5, 0, 1.6)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, at
    return CameraModel("pinhole", 160, 96, 80, 80, 80, 48, rig_from_camera=matrix)


XYZ, ROT = curve()
GOOD = Scene(
    np.random.default_rng(0).integers(0, 255, (2, 2, 96, 160, 3)).astype(np.uint8), np.array([0, 1], np.int32),
    XYZ, ROT, frame_times=np.array([[-0.1, 0.0], [-0.104, 0.0]]),
    calibration=(mounted(yaw(1.0) @ AHEAD), mounted(AHEAD)),
)  # fmt: skip


@pytest.mark.parametrize("speed", [0.01, 3.0, 30.0])
def test_nothing_is_found_in_a_good_scene(speed):
    xyz, rot = curve(speed)
    assert scenes.problems(GOOD.replace(ego_history_xyz=xyz, ego_history_rot=rot)) == []
    standing = GOOD.replace(ego_history_xyz=0 * xyz, ego_history_rot=np.tile(np.eye(3), (16, 1, 1)))
    assert scenes.problems(standing) == [] and scenes.unchecked(standing) == []


def test_absent_fields_are_said():
    assert len(scenes.unchecked(GOOD.replace(frame_times=None, calibration=None))) == 2


CAMERA_FROM_EGO = AHEAD.T  # ego axes -> camera axes
MISTAKES = {
    "ids out of order": ({"camera_ids": np.array([1, 0])}, r"camera_ids: \[1, 0\] out of order"),
    "id unknown": ({"camera_ids": np.array([1, 9])}, "camera_ids: 9 is unknown"),
    "id twice": ({"camera_ids": np.array([1, 1])}, "twice"),
    "ids too many": ({"camera_ids": np.array([0, 1, 2]), "calibration": None}, "images: 2 cameras, but 3"),
    "channels first": ({"images": np.zeros((2, 2, 3, 96, 160), np.uint8)}, "channels come last"),
    "floats": ({"images": GOOD.images / 255.0}, "expected uint8"),
    "tiny": ({"images": GOOD.images[:, :, :16]}, "at least 32x32"),
    "frames reversed": ({"frame_times": GOOD.frame_times[:, ::-1]}, "frame_times: reversed"),
    "frames end early": ({"frame_times": GOOD.frame_times - 0.2}, "frames end at t0"),
    "frames at 2 Hz": ({"frame_times": GOOD.frame_times * 5}, "expected 10 Hz"),
    "microseconds": ({"frame_times": GOOD.frame_times * 1e6}, "micro"),
    "15 rows": ({"ego_history_xyz": XYZ[1:]}, r"ego_history_xyz: shape \[15, 3\], expected \[16, 3\]"),
    "not finite": ({"ego_history_xyz": XYZ * np.nan}, "not finite"),
    "reversed": ({"ego_history_xyz": XYZ[::-1]}, "rows are reversed"),
    "rotations reversed": ({"ego_history_rot": ROT[::-1]}, "rows are reversed"),
    "world frame": ({"ego_history_xyz": XYZ + [100, 50, 0]}, "the last row .* expected the origin"),
    "backwards": ({"ego_history_xyz": XYZ * [-1, 1, 1]}, "x points backwards"),
    "camera frame": ({"ego_history_xyz": XYZ @ CAMERA_FROM_EGO.T}, "camera frame"),
    "map frame": ({"ego_history_xyz": XYZ[:, [1, 0, 2]]}, "moves along y"),
    "millimetres": ({"ego_history_xyz": XYZ * 1000}, "millimetres"),
    "centimetres": ({"ego_history_xyz": XYZ * 100}, "centimetres"),
    "row doubled": ({"ego_history_xyz": XYZ[[*range(1, 8), 7, *range(8, 16)]]}, "missing, doubled"),
    "transposed": ({"ego_history_rot": np.swapaxes(curve(10, 1.2)[1], 1, 2), "ego_history_xyz": curve(10, 1.2)[0]},
                   "off its own x axis"),
    "scaled": ({"ego_history_rot": ROT * 1.1}, "no rotation"),
    "mirrored": ({"ego_history_rot": ROT * np.array([1, -1, 1])}, "mirror image"),
    "not identity": ({"ego_history_rot": ROT @ yaw(0.5).astype(np.float32)}, "not the identity"),
    "one calibration": ({"calibration": GOOD.calibration[:1]}, "1 cameras, but 2"),
    "cameras swapped": ({"calibration": (mounted(yaw(-1.0) @ AHEAD), mounted(AHEAD))}, "not front left"),
    "rig axes": ({"calibration": (mounted(yaw(1.0)), mounted(AHEAD))}, "sky or the ground"),
    "camera far": ({"calibration": (mounted(yaw(1.0) @ AHEAD, (1500, 0, 1600)), mounted(AHEAD))}, "metres"),
    "no rotation": ({"calibration": (mounted(2 * AHEAD), mounted(AHEAD))}, "no rotation"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found_and_is_the_only_finding(name):
    change, message = MISTAKES[name]
    with pytest.raises(errors.SceneError, match=message) as error:
        scenes.check(GOOD.replace(**change), "here")
    assert str(error.value).startswith("here: ") and len(scenes.problems(GOOD.replace(**change))) == 1


def test_all_mistakes_come_in_one_message():
    bad = GOOD.replace(camera_ids=np.array([1, 0]), ego_history_xyz=XYZ * 1000, frame_times=-GOOD.frame_times,
                       calibration=None)  # fmt: skip
    with pytest.raises(errors.SceneError) as error:
        scenes.check(bad)
    assert "3 problems" in str(error.value)
