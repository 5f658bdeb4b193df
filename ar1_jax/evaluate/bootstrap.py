"""Bootstrap intervals over scenes.

n scenes, R resamples. A statistic is a ratio of sums (a mean, a share, a recall) or a mean of such ratios (macro
recall), so that all resamples are two matrix products: no loop over resamples. Percentile interval.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 1000


class Interval(NamedTuple):
    """Value on all scenes and its 95 % interval, in the unit of the values; NaN where nothing was counted."""

    value: float
    low: float
    high: float


def resamples(n, seed=0, count=RESAMPLES):
    """How often each resample drew each scene: f64 [R, n], each row sums to n."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=count).astype(np.float64)


def macro_ratio(numerator, denominator, draws, coverage=0.95):
    """Interval of mean over columns of sum(numerator) / sum(denominator).

    numerator, denominator [n] or [n, columns]; draws [R, n] from `resamples`. A column without any denominator
    (a class that does not occur) is left out, also in a resample where it does not occur.
    """
    numerator, denominator = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (numerator, denominator))

    def statistic(weights):
        above, below = weights @ numerator, weights @ denominator
        there = below > 0
        ratios = np.where(there, above / np.where(there, below, 1.0), 0.0)
        columns = there.sum(-1)
        return np.where(columns > 0, ratios.sum(-1) / np.maximum(columns, 1), np.nan)

    value = float(statistic(np.ones((1, len(numerator))))[0])
    if not np.isfinite(value):
        return Interval(value, value, value)
    tail = 100.0 * (1.0 - coverage) / 2.0
    low, high = np.nanpercentile(statistic(draws), [tail, 100.0 - tail])
    return Interval(value, float(low), float(high))


def mean(values, draws, valid=None):
    """Interval of the mean of values [n] over the scenes where valid [n] (default all) is True."""
    valid = np.ones(len(values), bool) if valid is None else np.asarray(valid)
    return macro_ratio(np.where(valid, values, 0.0), valid, draws)


def macro_recall(predicted, truth, classes, draws):
    """Interval of the recall averaged over the classes that occur in truth; ints [n] each, -1 predicted = none."""
    wanted = np.asarray(truth)[:, None] == np.arange(classes)
    return macro_ratio(wanted & (np.asarray(predicted)[:, None] == np.arange(classes)), wanted, draws)
