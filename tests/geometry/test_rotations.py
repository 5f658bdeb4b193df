"""Against the axis-angle formula and quaternion products written out in NumPy."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ar1_jax.geometry import frames, rotations

RNG = np.random.default_rng(0)
AXES = RNG.normal(size=(40, 3))
AXES /= np.linalg.norm(AXES, axis=-1, keepdims=True)
ANGLES = np.concatenate([np.linspace(-3.1, 3.1, 36), [0.0, np.pi, np.pi - 1e-3, 1e-3]])


def rodrigues(axis, angle):
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


MATRICES = np.stack([rodrigues(*row) for row in zip(AXES, ANGLES)]).astype(np.float32)
QUATERNIONS = np.concatenate([np.cos(ANGLES / 2)[:, None], np.sin(ANGLES / 2)[:, None] * AXES], -1)


def test_quaternion_to_matrix():
    np.testing.assert_allclose(rotations.from_quaternion(QUATERNIONS.astype(np.float32)), MATRICES, atol=2e-6)
    np.testing.assert_allclose(
        rotations.from_quaternion(3.0 * QUATERNIONS.astype(np.float32)), MATRICES, atol=2e-6
    )


def test_matrix_to_quaternion_up_to_sign():
    got = np.asarray(rotations.to_quaternion(MATRICES))
    assert (got[:, 0] >= 0).all()
    np.testing.assert_allclose(np.abs(np.sum(got * QUATERNIONS, -1)), 1.0, atol=2e-6)
    np.testing.assert_allclose(rotations.from_quaternion(got), MATRICES, atol=5e-6)


def test_angle_between_is_exact_at_both_ends():
    turned = MATRICES @ np.swapaxes(MATRICES[:1], -1, -2)
    got = rotations.angle_between(np.broadcast_to(np.eye(3, dtype=np.float32), MATRICES.shape), MATRICES)
    np.testing.assert_allclose(got, np.abs(ANGLES), atol=3e-4)
    np.testing.assert_allclose(got[-1], 1e-3, rtol=1e-3)  # arccos of the trace would give 0 or 9.8e-4 here
    assert turned.shape == MATRICES.shape


@settings(deadline=None, max_examples=50)
@given(st.floats(-20.0, 20.0, width=32))
def test_yaw_round_trip(yaw):
    back = float(rotations.yaw_of(rotations.from_yaw(np.float32(yaw))))
    assert abs(np.angle(np.exp(1j * (back - yaw)))) < 1e-5
    assert -np.pi <= float(rotations.wrap(np.float32(yaw))) < np.pi + 1e-6


def test_left_is_positive():
    np.testing.assert_allclose(rotations.rotate(rotations.from_yaw(np.float32(np.pi / 2)), np.array([1.0, 0, 0])),
                               [0, 1, 0], atol=1e-6)  # fmt: skip


def test_frames_against_numpy_inverse():
    position = RNG.normal(size=(40, 3)).astype(np.float32)
    matrix = np.asarray(frames.transform(position, MATRICES))
    np.testing.assert_allclose(frames.inverse(matrix), np.linalg.inv(matrix.astype(np.float64)), atol=1e-5)
    points = RNG.normal(size=(40, 5, 3)).astype(np.float32)
    want = np.einsum("nij,nkj->nki", MATRICES, points) + position[:, None]
    np.testing.assert_allclose(frames.apply(matrix, points), want, atol=1e-5)


def test_relative_undoes_a_move():
    xyz, rot = RNG.normal(size=(40, 3)).astype(np.float32), MATRICES
    base, turn = np.array([1.0, 2.0, 3.0], np.float32), MATRICES[5]
    moved = xyz @ turn.T + base, turn @ rot
    back = jax.jit(frames.relative)(*moved, base, turn)
    np.testing.assert_allclose(back[0], xyz, atol=1e-5)
    np.testing.assert_allclose(back[1], rot, atol=1e-5)
