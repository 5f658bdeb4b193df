"""Against numbers worked by hand."""

import numpy as np

from ar1_jax.metrics import displacement

TRUTH = np.stack([np.arange(1, 65) * 1.0, np.zeros(64), np.zeros(64)], -1).astype(np.float32)


def sample(first, rest):
    """`first` m beside the truth for 10 steps, `rest` m afterwards; 99 m above, which must not count."""
    offset = np.where(np.arange(64) < 10, first, rest)
    return (TRUTH + np.stack([0 * offset, offset, 0 * offset + 99.0], -1)).astype(np.float32)


def test_values_by_hand():
    """Sample 0 is nearer at first, sample 1 over the whole: means 54/64 * 4 = 3.375 and (10 * 3 + 54) / 64 = 1.3125."""
    both = np.stack([sample(0.0, 4.0), sample(3.0, 1.0)])
    np.testing.assert_allclose(displacement.ade(both, TRUTH), [3.375, 1.3125], atol=1e-5)
    np.testing.assert_allclose(displacement.fde(both, TRUTH), [4.0, 1.0], atol=1e-5)
    best = displacement.min_ade(both, TRUTH)
    assert int(best.index) == 1
    np.testing.assert_allclose(best.ade, 1.3125, atol=1e-5)
    np.testing.assert_allclose(best.fde, 1.0, atol=1e-5)
    np.testing.assert_allclose(
        best.by_horizon[1.0], 3.0, atol=1e-5
    )  # sample 0 would have 0: not minimised twice
    np.testing.assert_allclose(best.by_horizon[3.0], (10 * 3 + 20) / 30, atol=1e-5)


def test_leading_batch():
    both = np.stack([sample(0.0, 4.0), sample(3.0, 1.0)])
    best = displacement.min_ade(np.stack([both, both[::-1]]), np.stack([TRUTH, TRUTH]))
    assert np.asarray(best.index).tolist() == [1, 0]
    assert best.by_horizon[5.0].shape == (2,)
