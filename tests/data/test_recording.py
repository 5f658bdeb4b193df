"""Poses at 10 Hz out of recordings: against SciPy's splines and rotations, and a drive in closed form."""

import numpy as np
import pytest
import scipy.interpolate
import scipy.spatial.transform

from ar1_jax.data import recording

RNG = np.random.default_rng(0)
TIMES = np.sort(RNG.uniform(0, 12, 200))
XYZ = np.stack([10 * TIMES, np.sin(TIMES), 0.1 * np.cos(2 * TIMES)], -1)
TURNS = scipy.spatial.transform.Rotation.from_euler(
    "ZYX", np.stack([TIMES, 0.1 * np.sin(TIMES), 0 * TIMES], -1)
)
POSES = recording.Poses(
    TIMES, XYZ, TURNS.as_quat() * RNG.choice([-1, 1], (200, 1))
)  # a quaternion's sign is free


def test_spline_and_slerp_equal_scipy():
    at = np.linspace(2, 9, 64)
    wanted = scipy.interpolate.CubicSpline(TIMES, XYZ, bc_type="natural")(at)
    np.testing.assert_allclose(recording.spline(TIMES, XYZ, at), wanted, atol=1e-9)
    wanted = scipy.spatial.transform.Slerp(TIMES, TURNS)(at).as_matrix()
    np.testing.assert_allclose(recording.slerp(TIMES, POSES.quaternions, at), wanted, atol=1e-9)


def test_only_poses_near_by_are_used_and_that_changes_nothing():
    at = np.linspace(4, 5.5, 16)
    wanted = scipy.interpolate.CubicSpline(TIMES, XYZ)(at)
    np.testing.assert_allclose(recording.resample(POSES, at)[0], wanted, atol=1e-5)


def test_history_and_future_of_a_turning_car_in_closed_form():
    """8 m/s at 0.3 rad/s, somewhere in a world frame turned by 1 rad: the ego frame undoes both."""
    time, speed, turn = np.arange(0, 12, 0.05), 8.0, 0.3
    place = lambda t: speed / turn * np.stack([np.sin(turn * t), 1 - np.cos(turn * t), 0 * t], -1)
    heading = lambda t: scipy.spatial.transform.Rotation.from_euler("z", (turn * t)[:, None])
    world = scipy.spatial.transform.Rotation.from_euler("z", 1.0)
    poses = recording.Poses(time, world.apply(place(time)) + [30, -20, 2], (world * heading(time)).as_quat())
    xyz, rot, future = recording.ego_at(poses, 3.0)
    past, ahead = 0.1 * np.arange(-15, 1), 0.1 * np.arange(1, 65)
    np.testing.assert_allclose(xyz, place(past), atol=1e-5)
    np.testing.assert_allclose(rot, heading(past).as_matrix(), atol=1e-6)
    np.testing.assert_allclose(future, place(ahead), atol=1e-4)
    assert xyz.dtype == rot.dtype == future.dtype == np.float32
    assert recording.ego_at(poses, 6.0)[2] is None  # ends at 11.95 s


def test_what_is_not_covered_is_refused():
    with pytest.raises(ValueError, match="needs poses from -0.50 to 1.00 s"):
        recording.ego_at(POSES, 1.0)
    keep = (TIMES < 3) | (TIMES > 4)
    holed = recording.Poses(TIMES[keep], XYZ[keep], POSES.quaternions[keep])
    with pytest.raises(ValueError, match="poses lie 1.* s apart"):
        recording.ego_at(holed, 4.5)
    assert np.isfinite(recording.ego_at(holed, 6.0)[0]).all()


def test_frames_are_never_of_the_future():
    stamps = np.arange(0, 5, 0.1037)
    for t0 in np.arange(1, 4, 0.013):
        index = recording.frames_at(stamps, t0, 4)
        wanted = t0 + 0.1 * np.arange(-3, 1)
        assert (stamps[index] <= wanted + recording.SLACK).all() and (stamps[index + 1] > wanted).all()
    assert recording.frames_at(stamps, 0.15, 4).tolist() == [0, 0, 0, 1]
    assert recording.snap(3.0, stamps) == stamps[28] and recording.snap(50.0, stamps) == 50.0


def test_moment_of_choice_has_history_frames_and_truth():
    stamps = np.arange(0, 12, 0.1)
    t0 = recording.choose_t0(POSES, [stamps])
    assert recording.ego_at(POSES, t0)[2] is not None and t0 in stamps and t0 > TIMES[-1] - 6.55
    assert recording.choose_t0(POSES, [np.zeros(1)]) == pytest.approx(TIMES[0] + 1.6)
