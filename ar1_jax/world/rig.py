"""The four cameras of the embedded car: ids 0, 1, 2 (f-theta, 120 deg wide, yaw +60, 0, -60) and 6 (pinhole, 30 deg).

Pictures 160 x 96, all cameras at one point 1.5 m before and 1.6 m above the ego's origin, without pitch or roll.
C cameras, P = 96 * 160 pixels, row by row."""

import functools
from typing import NamedTuple

import numpy as np

from ar1_jax.core import types
from ar1_jax.geometry import cameras

CAMERA_IDS = (0, 1, 2, 6)
WIDTH, HEIGHT = 160, 96
POSITION = (1.5, 0.0, 1.6)
_YAW_DEG = (60.0, 0.0, -60.0, 0.0)
_WIDE_RAD, _TELE_RAD = np.deg2rad(120.0), np.deg2rad(30.0)


class Tables(NamedTuple):
    """Static rays in the ego frame."""

    direction: np.ndarray  # f32 [C, P, 3], unit
    pixel_angle: np.ndarray  # f32 [C] rad a pixel near the axis
    axis: np.ndarray  # f32 [C, 2] horizontal unit vector of the optical axis
    half_view: np.ndarray  # f32 [C] rad from the axis to the corner of the picture


@functools.cache
def calibration() -> tuple[types.CameraModel, ...]:
    """The four cameras in the order of CAMERA_IDS, as core.types.CameraModel."""
    models = []
    for yaw_deg, camera_id in zip(_YAW_DEG, CAMERA_IDS, strict=True):
        yaw = np.deg2rad(yaw_deg)
        forward, right = (np.cos(yaw), np.sin(yaw), 0.0), (np.sin(yaw), -np.cos(yaw), 0.0)
        pose = np.eye(4, dtype=np.float32)
        pose[:3, :3] = np.stack([right, (0.0, 0.0, -1.0), forward], -1)
        pose[:3, 3] = POSITION
        shared = {
            "width": WIDTH,
            "height": HEIGHT,
            "cx": WIDTH / 2,
            "cy": HEIGHT / 2,
            "rig_from_camera": pose,
        }
        if camera_id == 6:
            focal = WIDTH / 2 / np.tan(_TELE_RAD / 2)
            models.append(types.CameraModel("pinhole", fx=float(focal), fy=float(focal), **shared))
        else:
            models.append(types.CameraModel("ftheta", polynomial=(0.0, float(WIDTH / _WIDE_RAD)), **shared))
    return tuple(models)


@functools.cache
def tables() -> Tables:
    """Rays of every pixel, computed once on the host."""
    import jax

    direction, angle, axis, half = [], [], [], []
    with jax.ensure_compile_time_eval():
        for camera in calibration():
            rotation = camera.rig_from_camera[:3, :3]
            local = np.asarray(cameras.rays(camera, cameras.pixel_grid(camera))).reshape(-1, 3)
            direction.append(local @ rotation.T)
            angle.append(1.0 / (camera.fx if camera.model == "pinhole" else camera.polynomial[1]))
            axis.append(rotation[:2, 2])
            half.append(np.arccos(np.clip(local[:, 2].min(), -1.0, 1.0)))
    as_array = lambda rows: np.asarray(np.stack(rows), np.float32)
    return Tables(as_array(direction), as_array(angle), as_array(axis), as_array(half))
