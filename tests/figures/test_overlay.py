"""Bands on the ground against a pinhole camera worked by hand, and where they are drawn, read back from the axes."""

import matplotlib.figure
import numpy as np
import pytest

from ar1_jax.core.types import CameraModel
from ar1_jax.figures import groups, overlay, plan
from ar1_jax.world import rig

AHEAD = np.eye(4, dtype=np.float32)
AHEAD[:3, :3] = np.stack([(0, -1, 0), (0, 0, -1), (1, 0, 0)], -1)
AHEAD[:3, 3] = (2.0, 0.0, 1.5)  # 2 m before the origin, 1.5 m above the road
CAMERA = CameraModel("pinhole", 200, 100, fx=100.0, fy=100.0, cx=100.0, cy=50.0, rig_from_camera=AHEAD)
WAY = np.stack([np.arange(1, 65), np.zeros(64), np.zeros(64)], -1).astype(np.float32)  # 10 m/s straight on
STILL = np.broadcast_to(np.eye(3, dtype=np.float32), (64, 3, 3))


def test_a_band_is_as_wide_and_as_low_as_its_distance_says():
    """At 12 m it lies 10 m before the camera: 100 · 0.3 / 10 = 3 px to each side, 100 · 1.5 / 10 = 15 px below 50."""
    (outline,) = overlay.band(CAMERA, WAY, STILL)
    left, right = outline[: len(outline) // 2], outline[len(outline) // 2 :][::-1]
    at = np.argmin(np.abs(left[:, 1] - 65.0))
    np.testing.assert_allclose(left[at], [97.0, 65.0], atol=1e-3)
    np.testing.assert_allclose(right[at], [103.0, 65.0], atol=1e-3)
    np.testing.assert_allclose(left[-1], [100 - 30 / 62, 50 + 150 / 62], atol=1e-3)  # 64 m: the end is there


def test_what_lies_behind_the_camera_is_cut_off():
    """The band begins at the first point before the camera, far below the picture; nothing is mirrored into the sky."""
    (outline,) = overlay.band(CAMERA, WAY, STILL)
    assert outline[:, 1].min() > 50.0 and outline[:, 1].max() > 1000.0
    assert overlay.band(CAMERA, WAY * [-1, 1, 1], STILL) == []
    there_and_back = np.concatenate([WAY[:32], WAY[31::-1] - [20, 0, 0]]).astype(np.float32)
    lines = overlay.runs(CAMERA, there_and_back)
    assert len(lines) == 1 and len(lines[0]) == 30 + 10  # 3..32 m, then 12..3 m


def test_a_turned_car_has_a_turned_band():
    """Driving to the left at 12 m: the band reaches from 11.7 to 12.3 m, hence lies between two depths."""
    way = np.tile(np.float32([12, 0, 0]), (64, 1))
    left_turned = np.broadcast_to(np.float32([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), (64, 3, 3))
    (outline,) = overlay.band(CAMERA, way, left_turned)
    np.testing.assert_allclose(outline[len(outline) // 2 - 1], [100, 50 + 150 / 9.7], atol=1e-3)
    np.testing.assert_allclose(outline[len(outline) // 2], [100, 50 + 150 / 10.3], atol=1e-3)


def test_dense_goes_through_every_waypoint():
    fine = overlay.dense(WAY)
    np.testing.assert_allclose(fine[:: overlay.FINER], np.concatenate([np.zeros((1, 3)), WAY]))
    np.testing.assert_allclose(fine[:, 0], np.arange(len(fine)) / overlay.FINER, atol=1e-5)


def test_dots_lie_where_the_seconds_are_in_a_picture_of_another_size():
    """Calibrated at 200x100, shown at 400x200: the second at 20 m (18 m ahead) lies at (200, 116.67), less half a pixel
    since imshow counts from pixel centres."""
    box = matplotlib.figure.Figure().add_axes((0, 0, 1, 1))
    overlay.draw(box, CAMERA, (200, 400), WAY[None], STILL[None], groups.group(["x"], [""]))
    (dots,) = [line.get_xydata() for line in box.lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots[1], [199.5, 2 * (50 + 150 / 18) - 0.5], atol=1e-3)
    assert len(dots) == 6 and box.get_xlim() == (-0.5, 399.5) and box.get_ylim() == (199.5, -0.5)


def test_every_kind_and_the_truth_are_drawn():
    box = matplotlib.figure.Figure().add_axes((0, 0, 1, 1))
    kinds = groups.group(["x", "y"], ["", ""])
    overlay.draw(box, CAMERA, (100, 200), np.stack([WAY, WAY + [0, 1, 0]]), np.stack([STILL] * 2), kinds, WAY)
    colors = {line.get_color() for line in box.lines}
    assert {kinds[0].color, kinds[1].color, "black"} <= colors and len(box.patches) == 2


def test_cameras_that_look_along_the_ways_are_chosen():
    calibration = rig.calibration()  # front left, wide, right, tele
    assert overlay.looking_there(calibration, WAY[None]) == [1, 3]
    aside = np.stack([np.arange(1, 65) * 0.5, np.arange(1, 65) * 0.9, np.zeros(64)], -1)
    assert overlay.looking_there(calibration, aside[None], 1) == [0]
    assert overlay.looking_there(calibration, WAY[None] * 0.01) == []  # under the car
    assert overlay.looking_there(None, WAY[None]) == []
    assert overlay.looking_there([CAMERA.replace(rig_from_camera=None)], WAY[None]) == []


def test_a_plan_with_calibration_has_a_row_more():
    images = np.full((4, 1, 96, 160, 3), 90, np.uint8)
    given = (images, list("abcd"), np.zeros((16, 3)), WAY[None], ["x"])
    size = lambda png: np.frombuffer(png[16:24], ">u4")
    bare = plan.render(*given, rotations=STILL[None])
    drawn = plan.render(*given, rotations=STILL[None], calibration=rig.calibration())
    assert size(drawn)[1] - size(bare)[1] == 384 + 76
    with pytest.raises(ValueError, match="calibration: 1 for 4 cameras"):
        plan.render(*given, rotations=STILL[None], calibration=rig.calibration()[:1])
    with pytest.raises(ValueError, match="rotations: missing"):
        plan.render(*given, calibration=rig.calibration())
