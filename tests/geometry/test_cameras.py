"""Against pinhole and f-theta formulas worked by hand, and projection against its inverse."""

import numpy as np
import pytest

from ar1_jax.core import types
from ar1_jax.geometry import cameras
from ar1_jax.world import rig

LOOK_AHEAD = np.eye(4, dtype=np.float32)
LOOK_AHEAD[:3, :3] = np.stack(
    [(0, -1, 0), (0, 0, -1), (1, 0, 0)], -1
)  # right, down, forward in x forward, y left, z up
PINHOLE = types.CameraModel(
    "pinhole", 200, 100, fx=100.0, fy=50.0, cx=100.0, cy=50.0, rig_from_camera=LOOK_AHEAD
)
CURVED = types.CameraModel("ftheta", 400, 300, cx=200.0, cy=150.0, polynomial=(0.0, 200.0, 3.0, -8.0, 1.0),
                           rig_from_camera=LOOK_AHEAD)  # fmt: skip


def test_pinhole_by_hand():
    """10 m ahead, 2 m left, 1 m up: 20 px left of the middle, 5 px above it."""
    pixels, visible = cameras.project(
        PINHOLE, np.array([[10.0, 2.0, 1.0], [-10.0, 0.0, 0.0], [1.0, 5.0, 0.0]], np.float32)
    )
    np.testing.assert_allclose(pixels[0], [80.0, 45.0], atol=1e-4)
    assert np.asarray(visible).tolist() == [True, False, False]


def test_ftheta_by_hand():
    """30 degrees to the right: theta = 0.5236, radius 200 t + 3 t^2 - 8 t^3 + t^4 = 104.47."""
    theta = np.deg2rad(30.0)
    radius = 200 * theta + 3 * theta**2 - 8 * theta**3 + theta**4
    point = np.array([[np.cos(theta), -np.sin(theta), 0.0]], np.float32) * 7
    pixels, visible = cameras.project(CURVED, point)
    np.testing.assert_allclose(pixels[0], [200.0 + radius, 150.0], atol=1e-3)
    assert visible[0]


@pytest.mark.parametrize(
    "camera", [PINHOLE, CURVED, *rig.calibration()], ids=["pinhole", "curved", "0", "1", "2", "6"]
)
def test_rays_and_projection_are_inverse(camera):
    pixels = cameras.pixel_grid(camera)[::7, ::7].reshape(-1, 2)
    directions = np.asarray(cameras.rays(camera, pixels))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0, atol=1e-5)
    pose = camera.rig_from_camera
    points = 12.0 * directions @ pose[:3, :3].T + pose[:3, 3]
    back, visible = cameras.project(camera, points)
    assert np.asarray(visible).all()
    np.testing.assert_allclose(back, pixels, atol=5e-3)


def test_rig_looks_where_it_says():
    """Ahead at eye height is the middle of cameras 1 and 6; 60 degrees to the side that of 0 (left) and 2 (right)."""
    ahead = np.array([[51.5, 0.0, 1.6]], np.float32)
    side = np.array([[1.5 + 50 * np.cos(np.pi / 3), 50 * np.sin(np.pi / 3), 1.6]], np.float32)
    points = (side, ahead, side * [1, -1, 1], ahead)
    for camera, point in zip(rig.calibration(), points):
        np.testing.assert_allclose(
            cameras.project(camera, point.astype(np.float32))[0], [[80.0, 48.0]], atol=1e-3
        )
    left_of_ahead = np.array([[51.5, 5.0, 1.6]], np.float32)
    assert cameras.project(rig.calibration()[1], left_of_ahead)[0][0, 0] < 80.0


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match="'fisheye' is not one of pinhole, ftheta"):
        cameras.project(PINHOLE.replace(model="fisheye"), np.zeros((1, 3), np.float32))


def test_a_lens_that_turns_back_shows_nothing_beyond_its_widest_angle():
    """radius 300 t - 100 t^3 grows up to t = 1 rad, where it is 200; at 1.3 rad it would be 170.3, in the picture."""
    lens = CURVED.replace(polynomial=(0.0, 300.0, 0.0, -100.0))
    angles = np.array([0.9, 0.99, 1.01, 1.3])
    points = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1).astype(np.float32)
    pixels, visible = cameras.project(lens, points)
    assert np.asarray(visible).tolist() == [True, True, False, False]
    np.testing.assert_allclose(pixels[0], [200 - (300 * 0.9 - 100 * 0.9**3), 150], atol=1e-3)


def test_on_the_plane_what_is_beside_the_picture_keeps_its_place():
    """5 m to the left, 1 m ahead: 500 px left of the middle, so at -400; behind the camera there is no place."""
    pixels, before = cameras.onto_plane(PINHOLE, np.array([[1.0, 5.0, 0.0], [-1.0, 5.0, 0.0]], np.float32))
    np.testing.assert_allclose(pixels[0], [-400.0, 50.0], atol=1e-3)
    assert np.asarray(before).tolist() == [True, False]
