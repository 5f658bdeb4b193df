"""Banded Cholesky against numpy's dense solve in float64, and its bounded retries."""

import jax
import numpy as np
import pytest

from ar1_jax.actions import banded

RNG = np.random.default_rng(0)


def dense(bands):
    n = len(bands)
    m = np.diag(bands[:, 0])
    for k in (1, 2, 3):
        m += np.diag(bands[k:, k], -k) + np.diag(bands[k:, k], k)
    return m.reshape(n, n)


@pytest.mark.parametrize("rows", [4, 5, 16, 64])
def test_matches_dense_float64(rows):
    factor = np.tril(np.triu(RNG.normal(size=(6, rows, rows)), -3)) + 3 * np.eye(rows)
    bands = np.stack([banded.lower_bands(f @ f.T) for f in factor]).reshape(2, 3, rows, 4).astype("float32")
    rhs = RNG.normal(size=(2, 3, rows)).astype("float32")
    got = jax.jit(banded.solve)(bands, rhs, 0.5)
    for i in np.ndindex(2, 3):
        want = np.linalg.solve(dense(bands[i].astype("float64")) + 0.5 * np.eye(rows), rhs[i])
        np.testing.assert_allclose(got[i], want, atol=2e-5 * np.abs(want).max())


def test_difference_gram_is_the_square_of_differences():
    for order, x in ((2, RNG.normal(size=9)), (3, RNG.normal(size=9))):
        want = np.sum(np.diff(x, order) ** 2)
        assert np.isclose(x @ dense(banded.difference_gram(9, order)) @ x, want)


@pytest.mark.parametrize("drop", [0, 1])
def test_smoother_minimises_its_sum(drop):
    """The gradient of sum (x - d)² + w |D x|² + r |x|² vanishes at the smoothed values."""
    data = RNG.normal(size=(3, 12)).astype("float32")
    x = np.asarray(banded.smooth(data[:, drop:], banded.smoother(12, 3, 0.7, 0.1, drop)), "float64")
    x = np.pad(x, [(0, 0), (drop, 0)])
    d = np.diff(np.eye(12), 3, axis=0)
    gradient = (x - np.where(np.arange(12) < drop, 0, data)) + 0.7 * x @ d.T @ d + 0.1 * x
    np.testing.assert_allclose(gradient[:, drop:], 0, atol=1e-5)


def test_ridge_grows_only_where_the_matrix_is_not_positive():
    good = np.zeros((8, 4), "float32")
    good[:, 0] = 2.0
    bad = good - np.array([3.0, 0, 0, 0], "float32")  # -1 on the diagonal: positive from ridge 1.0 * 10 on
    rhs = np.ones((2, 8), "float32")
    got = jax.jit(banded.solve)(np.stack([good, bad]), rhs, 0.1)
    np.testing.assert_allclose(got[0], 1 / 2.1, rtol=1e-6)
    np.testing.assert_allclose(got[1], 1 / (10.0 - 1.0), rtol=1e-6)  # 0.1, 1.0 fail, 10.0 holds


def test_nan_ends_and_stays_in_its_row():
    bands = np.zeros((2, 8, 4), "float32")
    bands[..., 0] = 1.0
    bands[1, 3, 0] = np.nan
    got = np.asarray(jax.jit(banded.solve)(bands, np.ones((2, 8), "float32"), 0.1))
    assert np.isfinite(got[0]).all() and np.isnan(got[1]).any()
