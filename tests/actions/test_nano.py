"""The small policy's codecs: how near a decoded motion stays, what happens at rest, ids and their ranges.

Reference: the motions themselves (tests/actions/motions.py) and, for the mended decoder, Euler sums in a loop."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from ar1_jax import actions
from ar1_jax.actions import bins
from tests.actions import motions

SPACE, FUTURE, HISTORY = actions.nano_unicycle(), actions.nano_future(), actions.nano_history()


def displacement(xyz, truth):
    return np.linalg.norm(np.asarray(xyz)[..., :2] - truth[..., :2], axis=-1)


def there_and_back(motion, config=FUTURE):
    ids = actions.future_ids(*motion, config)
    return ids, displacement(actions.decode_future_ids(ids, *motion[:2], config)[0], motion[2])


@pytest.mark.parametrize("kind", motions.KINDS)
def test_decoded_motion_stays_near(kind):
    motion = motions.batch(kind, 40)
    controls = actions.unicycle_encode(*motion, SPACE)
    smooth = displacement(actions.unicycle_decode(controls, *motion[:2], SPACE)[0], motion[2])
    ids, error = there_and_back(motion)
    assert smooth.mean() < 0.03 and error.mean() < 0.05 and error.max() < 0.4
    assert ids.shape == (40, 32) and ids.dtype == np.int32
    accel, curvature = np.asarray(ids[:, ::2]), np.asarray(ids[:, 1::2])
    assert accel.min() >= 0 and accel.max() < 65 <= curvature.min() and curvature.max() < 130


def test_feedback_beats_rounding_each_control():
    motion = motions.batch("cruise", 40)
    _, tracked = there_and_back(motion)
    _, rounded = there_and_back(motion, FUTURE.replace(feedback=False))
    assert tracked.mean() < 0.2 * rounded.mean()


def test_controls_do_not_ring():
    """Constant braking is constant in the controls: neighbours differ by far less than the control itself."""
    motion = tuple(x[None] for x in motions.drive(lambda t: np.clip(14 - 2 * t, 0, None), lambda t: 0.0))
    accel = np.asarray(actions.controls_of(actions.unicycle_encode(*motion, SPACE), SPACE))[0, :, 0]
    np.testing.assert_allclose(accel[1:-1], -2.0, atol=0.02)


def reference_decode(controls, speed, hold=4, step=0.1):
    """The mended decoder step by step, from its definition."""
    x, y, yaw, out = 0.0, 0.0, 0.0, []
    for accel, curvature in np.repeat(controls, hold, axis=0):
        after = speed + accel * step
        slow = min(abs(speed), abs(after)) < 0.6
        bend = 0.0 if slow else min(max(curvature, -0.33), 0.33)
        yaw_after = yaw + bend * (speed * step + accel * step**2 / 2)
        x += step / 2 * (speed * np.cos(yaw) + after * np.cos(yaw_after))
        y += step / 2 * (speed * np.sin(yaw) + after * np.sin(yaw_after))
        speed, yaw = after, yaw_after
        out.append((x, y, yaw))
    return np.array(out)


def test_mended_decoder_matches_a_loop():
    rng = np.random.default_rng(1)
    controls = np.stack([rng.normal(size=(5, 16)) * 2, rng.normal(size=(5, 16)) * 0.3], axis=-1)
    past = motions.batch("creep", 5)[:2]
    mean_std = np.array([SPACE.accel_std, SPACE.curvature_std])
    xyz, rot = actions.unicycle_decode(controls / mean_std, *past, SPACE)
    speed = np.asarray(actions.initial_speed(*past, SPACE))
    for i in range(5):
        want = reference_decode(controls[i], speed[i])
        np.testing.assert_allclose(xyz[i, :, :2], want[:, :2], atol=1e-4)
        np.testing.assert_allclose(rot[i, :, 1, 0], np.sin(want[:, 2]), atol=1e-5)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    first=st.floats(-2, 2),
    accel=st.floats(-3, 3),
    curvature=st.floats(-0.2, 0.2),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 99),
)
def test_near_standstill_all_stays_finite_and_bounded(first, accel, curvature, noise, seed):
    """0-2 m/s, starting, stopping, reversing, with noise on the positions: no NaN, nothing beyond the bins' range."""
    speed = lambda t: np.clip(first + accel * np.clip(t, 0, None), -3.0, 12.0)
    past, past_rot, future, future_rot = motions.drive(speed, lambda t: curvature)
    future = future + noise * np.random.default_rng(seed).normal(size=future.shape).astype("float32")
    motion = tuple(x[None] for x in (past, past_rot, future, future_rot))
    controls = np.asarray(actions.controls_of(actions.unicycle_encode(*motion, SPACE), SPACE))
    assert (
        np.isfinite(controls).all()
        and np.abs(controls[..., 0]).max() < 15
        and np.abs(controls[..., 1]).max() < 5
    )
    ids, error = there_and_back(motion)
    assert np.isfinite(error).all()
    if noise == 0 and first >= 0 and accel >= 0 and abs(curvature) < 0.05:
        assert error.mean() < 0.2


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.sampled_from([3, 64, 65]), st.floats(0.1, 9), st.floats(0.1, 9))
def test_squared_bins_are_inverse_nearest_and_hold_zero(num_bins, below, above):
    c = FUTURE.replace(num_bins=num_bins, dims_min=(-below, -above), dims_max=(above, below))
    index = np.stack([np.arange(num_bins)] * 2, axis=-1)
    values = np.asarray(bins.dequantise(index, c))
    np.testing.assert_array_equal(bins.quantise(values, c), index)
    assert (np.diff(values, axis=0) > 0).all() and ((values == 0).sum(axis=0) == 1).all()
    x = np.random.default_rng(0).uniform(-10, 10, (200, 2)).astype("float32")
    chosen = np.take_along_axis(values, np.asarray(bins.quantise(x, c)), axis=0)
    best = np.abs(x[:, None] - values[None]).min(axis=1)
    np.testing.assert_allclose(np.abs(x - chosen), best, atol=1e-5)


def test_ids_out_of_range_are_moved_in():
    last = actions.ids_to_actions(np.array([64, 129]), FUTURE)
    np.testing.assert_array_equal(actions.ids_to_actions(np.array([999, 999]), FUTURE), last)
    first = actions.ids_to_actions(np.array([0, 65]), FUTURE)
    np.testing.assert_array_equal(actions.ids_to_actions(np.array([-5, 3]), FUTURE), first)


def test_nan_stays_in_its_row():
    motion = tuple(np.array(x) for x in motions.batch("cruise", 3))
    clean = np.asarray(actions.unicycle_encode(*motion, SPACE))
    motion[2][1, 20] = np.nan
    got = np.asarray(actions.unicycle_encode(*motion, SPACE))
    np.testing.assert_allclose(got[[0, 2]], clean[[0, 2]], atol=1e-6)
    assert np.isnan(got[1]).any()


@pytest.mark.parametrize("speed", [0.0, 3.0, 20.0, -3.0])
@pytest.mark.parametrize("curvature", [0.0, 0.02, -0.02])
def test_history_does_not_saturate_and_keeps_its_sign(speed, curvature):
    past, rot, *_ = (x[None] for x in motions.drive(lambda t: speed, lambda t: curvature))
    ids = np.asarray(actions.history_ids(past, rot, HISTORY))
    assert ids.shape == (1, 9) and ids.min() > 0 and ids.max() < HISTORY.num_bins - 1
    xyz, back = actions.decode_history_ids(ids, HISTORY)
    rows = slice(0, 16, 5)
    np.testing.assert_allclose(
        xyz[0, :, :2], past[0, rows, :2], atol=0.4
    )  # half a bin, three steps, some turn
    np.testing.assert_allclose(back[0], rot[0, rows], atol=0.02)
    still = HISTORY.replace(mended=False)
    assert (np.asarray(actions.history_ids(past, rot, still))[0, 0] == 0) == (
        speed > 2
    )  # the released form saturates


def test_leading_axes_vmap_and_jit_agree():
    motion = motions.batch("brake", 6)
    split = tuple(x.reshape(2, 3, *x.shape[1:]) for x in motion)
    for call in (
        lambda *m: actions.history_ids(*m[:2], HISTORY),
        lambda *m: actions.decode_future_ids(actions.future_ids(*m, FUTURE), *m[:2], FUTURE)[0],
    ):
        whole = np.asarray(call(*motion))
        mapped = np.asarray(jax.jit(jax.vmap(call))(*split))
        np.testing.assert_allclose(mapped.reshape(whole.shape), whole, atol=1e-3)


def test_unknown_config_keys_are_refused_by_name():
    with pytest.raises(actions.config.errors.ConfigError, match='accel_men.*"accel_mean"'):
        actions.initial_speed(*motions.batch("brake", 1)[:2], {"accel_men": 0.0})
    with pytest.raises(actions.config.errors.ConfigError, match="spacing"):
        actions.ids_to_actions(np.zeros(2, int), {"spacing": "cubic"})


def test_decoder_is_differentiable_in_its_actions():
    """The gradient of the last waypoint equals finite differences."""
    past = tuple(x[:1] for x in motions.batch("cruise", 1)[:2])
    controls = np.full((1, 16, 2), 0.3, "float32")
    last = jax.jit(lambda a: actions.unicycle_decode(a, *past, SPACE)[0][0, -1, 1])
    gradient = np.asarray(jax.grad(last)(controls))
    for i, j in ((0, 1), (7, 0), (12, 1)):
        step = np.zeros_like(controls)
        step[0, i, j] = 1e-2
        want = (last(controls + step) - last(controls - step)) / 2e-2
        np.testing.assert_allclose(gradient[0, i, j], want, rtol=2e-2, atol=2e-3)
