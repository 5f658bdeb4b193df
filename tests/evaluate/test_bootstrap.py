"""Intervals against a loop over resamples, and against the normal law where it holds."""

import numpy as np

from ar1_jax.evaluate import bootstrap

RNG = np.random.default_rng(0)
TRUTH, PREDICTED = RNG.integers(0, 3, 40), RNG.integers(-1, 3, 40)


def reference_macro_recall(truth, predicted):
    recalls = []
    for c in range(5):
        rows = [p == c for t, p in zip(truth, predicted, strict=True) if t == c]
        if rows:
            recalls.append(sum(rows) / len(rows))
    return sum(recalls) / len(recalls)


def test_macro_recall_matches_a_loop_over_classes_and_resamples():
    draws = bootstrap.resamples(40, seed=3, count=50)
    got = bootstrap.macro_recall(PREDICTED, TRUTH, 5, draws)
    values = []
    for row in draws.astype(int):
        chosen = np.repeat(np.arange(40), row)
        values.append(reference_macro_recall(TRUTH[chosen], PREDICTED[chosen]))
    assert abs(got.value - reference_macro_recall(TRUTH, PREDICTED)) < 1e-12
    np.testing.assert_allclose((got.low, got.high), np.percentile(values, [2.5, 97.5]), atol=1e-12)


def test_interval_of_a_mean_is_near_the_normal_one():
    values = RNG.normal(3.0, 2.0, 1000)
    got = bootstrap.mean(values, bootstrap.resamples(1000))
    half = 1.96 * values.std() / np.sqrt(1000)
    assert abs(got.value - values.mean()) < 1e-12
    np.testing.assert_allclose((got.low, got.high), (values.mean() - half, values.mean() + half), atol=0.03)


def test_scenes_that_are_not_valid_do_not_count():
    values, valid = np.array([1.0, 2.0, np.nan, 3.0]), np.array([True, True, False, True])
    assert bootstrap.mean(values, bootstrap.resamples(4), valid).value == 2.0
    assert np.isnan(bootstrap.mean(values, bootstrap.resamples(4), np.zeros(4, bool)).value)
