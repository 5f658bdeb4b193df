"""Against the circle itself and against integration in small steps, in float64."""

import jax
import numpy as np
import pytest

from ar1_jax.geometry import arcs, unicycle

TO_CARTESIAN, TO_ROAD = jax.jit(arcs.to_cartesian), jax.jit(arcs.to_road)


def integrate(s, d, curvature, n=20000):
    step = s / n
    angle = curvature * step * (np.arange(n) + 0.5)
    x, y, heading = (np.cos(angle) * step).sum(), (np.sin(angle) * step).sum(), curvature * s
    return x - d * np.sin(heading), y + d * np.cos(heading), heading


@pytest.mark.parametrize("curvature", [0.0, 1e-7, -1e-5, 2e-5, 3e-4, -0.012, 0.05])
def test_points_on_the_arc(curvature):
    for s, d in ((0.0, 2.0), (7.0, -3.0), (40.0, 5.0), (-12.0, 1.0)):
        got = TO_CARTESIAN(np.float32(s), np.float32(d), np.float32(curvature))
        np.testing.assert_allclose(got, integrate(s, d, curvature), atol=2e-5)


@pytest.mark.parametrize("curvature", [0.0, 1e-7, -1e-5, 2e-5, 3e-4, -0.012, 0.05])
def test_round_trip(curvature):
    s, d = np.meshgrid(np.linspace(-15.0, 50.0, 27), np.linspace(-8.0, 8.0, 9))
    s, d = s.astype(np.float32), d.astype(np.float32)
    x, y, _ = TO_CARTESIAN(s, d, np.float32(curvature))
    back = TO_ROAD(x, y, np.float32(curvature))
    np.testing.assert_allclose(back[0], s, atol=5e-5)
    np.testing.assert_allclose(back[1], d, atol=2e-5)


def test_gradients_are_finite_at_zero_curvature():
    slope = jax.grad(lambda k: sum(arcs.to_road(30.0, 2.0, k)) + sum(arcs.to_cartesian(30.0, 2.0, k)))
    assert np.isfinite(float(slope(0.0)))


def test_unicycle_against_small_steps():
    """Ten controls of 0.4 s, integrated with 1000 steps each in float64."""
    rng = np.random.default_rng(0)
    accel, curvature = rng.uniform(-2, 2, 10), rng.uniform(-0.03, 0.03, 10)
    x = y = yaw = 0.0
    speed, want, fine = 9.0, [], 0.4 / 1000
    for a, k in zip(accel, curvature):
        for _ in range(1000):
            middle = speed + a * fine / 2
            yaw += k * middle * fine / 2
            x, y = x + middle * fine * np.cos(yaw), y + middle * fine * np.sin(yaw)
            yaw += k * middle * fine / 2
            speed += a * fine
        want.append((x, y, yaw, speed))
    got = unicycle.roll_out(np.float32(9.0), accel.astype(np.float32), curvature.astype(np.float32), 0.4)
    np.testing.assert_allclose(np.stack(got, -1), want, atol=5e-5)


def test_unicycle_takes_a_batch():
    both = unicycle.roll_out(
        np.array([5.0, 9.0], np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), 0.1
    )
    np.testing.assert_allclose(both[0], [[0.5, 1.0, 1.5], [0.9, 1.8, 2.7]], atol=1e-6)
