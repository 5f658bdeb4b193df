"""What a plan says about itself, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from ar1_jax.core.types import Plan


def plan(ways) -> Plan:
    """A plan with nothing but ways [K, W, 2], at heights that no distance may depend on."""
    ways = np.asarray(ways, np.float32)
    heights = np.random.default_rng(0).normal(size=(*ways.shape[:2], 1))
    empty = np.zeros((len(ways), 0))
    return Plan(
        np.concatenate([ways, heights], -1),
        empty,
        empty,
        empty,
        ("",) * len(ways),
        empty,
        empty,
        empty,
        empty,
    )


# two waypoints each; own pairs lie 1 (A, B), 5 (A, C; a triangle of 3 and 4) and sqrt(18) (B, C) apart
OWN = plan([[[0, 0], [5, 0]], [[0, 1], [5, 1]], [[3, 4], [8, 4]]])
SPREAD = (1 + 5 + math.sqrt(18)) / 3


def test_a_text_that_moves_one_way_by_hand():
    """Sample A stays, B moves by 2 at both waypoints, C by 3 at its last only: (0 + 2 + 1.5) / 3 over the spread."""
    other = plan([[[0, 0], [5, 0]], [[2, 1], [5, -1]], [[3, 4], [8, 7]]])
    assert OWN.influence(other) == pytest.approx((0 + 2 + 1.5) / 3 / SPREAD)


def test_a_text_that_changes_nothing_has_no_influence():
    assert OWN.influence(OWN) == 0.0


def test_it_is_measured_in_the_spread_of_the_first():
    wide = plan(10 * np.asarray(OWN.trajectory_xyz)[..., :2])
    moved = np.linalg.norm(9 * np.asarray(OWN.trajectory_xyz)[..., :2], axis=-1).mean()
    assert OWN.influence(wide) == pytest.approx(moved / SPREAD)
    assert wide.influence(OWN) == pytest.approx(moved / (10 * SPREAD))


@pytest.mark.parametrize(
    "ways", [[[[0, 0], [5, 0]]], [[[0, 0], [5, 0]]] * 4], ids=["one sample", "no spread"]
)
def test_without_a_spread_there_is_no_number(ways):
    here = plan(ways)
    assert math.isnan(here.influence(plan(np.asarray(ways) + 1.0)))


def test_other_counts_of_samples_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 2, 3\] and \[2, 2, 3\]"):
        OWN.influence(plan(np.asarray(OWN.trajectory_xyz)[:2, :, :2]))
