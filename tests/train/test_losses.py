"""Losses against NumPy loops and numbers worked by hand."""

import jax
import numpy as np

from ar1_jax.train import losses

RNG = np.random.default_rng(0)


def test_weighted_token_loss_by_hand():
    log_prob, weights = np.array([[-1.0, -2.0, -9.0]]), np.array([[4.0, 1.0, 0.0]])
    assert abs(losses.weighted_token_loss(log_prob, weights) - 6.0 / 5.0) < 1e-6
    assert losses.weighted_token_loss(log_prob, 0 * weights) == 0.0


def test_released_token_loss_is_the_sum_of_two_means():
    log_prob = np.array([[-1.0, -3.0, -5.0, -70.0]])
    trajectory = np.array([[False, True, True, True]])
    mask = np.array([[True, True, True, False]])
    assert losses.released_token_loss(log_prob, mask, trajectory) == 1.0 + 4.0
    assert losses.released_token_loss(log_prob, mask, 0 * trajectory == 1) == 3.0  # an empty set adds 0


def test_cell_loss_matches_a_loop():
    logits, cells = RNG.normal(size=(3, 4, 2)).astype("float32"), RNG.integers(0, 2, (3, 4, 2))
    seen = np.array([1.0, 0.0, 1.0])
    total = 0.0
    for b, n, c in np.ndindex(3, 4, 2):
        p = 1.0 / (1.0 + np.exp(-float(logits[b, n, c])))
        total -= seen[b] * (5.0 * np.log(p) if cells[b, n, c] else np.log(1.0 - p))
    np.testing.assert_allclose(losses.cell_loss(logits, cells, seen), 0.1 * total / 2, rtol=1e-5)
    found, there = losses.cell_recall(logits, cells)
    np.testing.assert_array_equal(there, cells.sum((0, 1)))
    np.testing.assert_array_equal(found, ((logits > 0) & (cells == 1)).sum((0, 1)))


def test_flow_draws_join_noise_and_data_on_a_line():
    actions = RNG.normal(size=(2, 5, 2)).astype("float32")
    x, tau, target = (np.asarray(a) for a in losses.flow_draws(jax.random.key(0), actions, 3))
    assert x.shape == target.shape == (2, 3, 5, 2)
    for b, k in np.ndindex(2, 3):
        noise = actions[b] - target[b, k]
        np.testing.assert_allclose(x[b, k], tau[b, k] * actions[b] + (1 - tau[b, k]) * noise, atol=1e-5)
    # Following the velocity from x at tau reaches the data at t = 1.
    np.testing.assert_allclose(x + (1 - tau)[..., None, None] * target, actions[:, None] + 0 * x, atol=1e-5)
    assert abs(losses.flow_loss(target + 2.0, target) - 4.0) < 1e-4


def test_flow_times_follow_the_released_law():
    _, tau, target = losses.flow_draws(jax.random.key(1), np.zeros((1, 1, 2), "float32"), 40_000)
    tau = np.sort(np.asarray(tau)[0])
    # u ~ Beta(1.5, 1): P(t < s) = 1 - (1 - s / 0.999)^1.5, mean 0.999 * 0.4.
    distribution = 1.0 - (1.0 - tau / 0.999) ** 1.5
    np.testing.assert_allclose(distribution, np.arange(1, 40_001) / 40_000, atol=0.012)
    assert abs(tau.mean() - 0.3996) < 0.005 and tau.max() <= 0.999
    assert abs(np.asarray(target).std() - 1.0) < 0.01
