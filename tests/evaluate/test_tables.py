"""Tables of four scenes whose cells are worked out by hand; targets that can be met and missed."""

import json

import numpy as np

from ar1_jax.evaluate import bootstrap, open_loop, tables
from ar1_jax.text import coc

KEEP, STOP, LEFT = (
    coc.LONGITUDINAL.index("set_speed"),
    coc.LONGITUDINAL.index("stop"),
    coc.LATERAL.index("nudge_out_left"),
)
LANE = coc.LATERAL.index("lane_keeping")
TIMES = 0.1 * np.arange(1, 65)
EIGHT = np.stack([8.0 * TIMES, 0 * TIMES, 0 * TIMES], -1)  # straight on at 8 m/s
HISTORY = np.stack([0.8 * np.arange(-15.0, 1.0), np.zeros(16), np.zeros(16)], -1)
SAMPLES = {
    "longitudinal": np.array([KEEP, KEEP, STOP, KEEP]),
    "lateral": np.array([LANE, LANE, LANE, LEFT]),
    "family": np.array([0, 0, 1, 1]),
    "ego_future_xyz": np.stack([EIGHT, EIGHT, EIGHT * [0.5, 1, 1], EIGHT]),
    "ego_history_xyz": np.tile(HISTORY, (4, 1, 1)),
    "ego_history_rot": np.tile(np.eye(3), (4, 16, 1, 1)),
}
TRUTH = ["a", "b", "c", "d"]


def answers(longitudinal, lateral, texts, scale=1.0):
    paths = (SAMPLES["ego_future_xyz"] * [scale, 1, 1])[:, None]
    ones = np.ones(4, bool)
    return open_loop.Answers(
        texts, np.array(longitudinal), np.array(lateral), ones, paths, paths + [0, 3.0, 0], ones[:, None]
    )


TRUE = answers([KEEP, KEEP, STOP, STOP], [LANE, LANE, LANE, LEFT], ["a", "b", "x", "d"])
BLIND = answers([KEEP] * 4, [LANE] * 4, [""] * 4, scale=0.5)
FOUND = tables.open_loop_tables(
    {"true": TRUE, "shuffled": BLIND, "none": BLIND}, SAMPLES, TRUTH, ("free", "other")
)


def value(row, column, table="all"):
    return round(FOUND[table][row][column].value, 6)


def test_decision_cells_by_hand():
    row = "policy, true images"
    assert value(row, "decision") == 75.0  # the last scene's stop is wrong
    assert value(row, "longitudinal") == round(100 * (2 / 3 + 1) / 2, 6)  # keep 2 of 3, stop 1 of 1
    assert value(row, "lateral") == 100.0
    assert value(row, "text") == 75.0
    assert value("majority decision", "decision") == 50.0
    assert value("majority decision", "lateral") == 50.0
    assert (value(row, "decision", "free"), value(row, "decision", "other")) == (100.0, 50.0)
    assert value("majority decision", "decision", "other") == 0.0
    assert value("majority decision", "lateral", "free") == 100.0  # the nudge is in the other family


def test_distances_by_hand():
    mean_way = 8.0 * TIMES.mean()
    assert value("policy, true images", "ade_tokens") == 0.0
    assert value("policy, true images", "ade_flow") == 3.0
    np.testing.assert_allclose(
        value("policy, none images", "ade_tokens"), mean_way * (3 * 0.5 + 0.25) / 4, atol=1e-5
    )
    for row in (
        "constant velocity",
        "constant speed and curvature",
    ):  # wrong only where the truth goes at 4 m/s
        np.testing.assert_allclose(value(row, "ade_tokens"), mean_way * 0.5 / 4, atol=1e-5)
    _, final = open_loop.displacement(TRUE.flow + [4.0, 0, 0], SAMPLES["ego_future_xyz"])
    np.testing.assert_allclose(final, 5.0)


def test_the_best_of_several_plans_counts():
    several = TRUE._replace(flow=np.concatenate([TRUE.flow, TRUE.tokens], axis=1))
    found = tables.open_loop_tables(
        {"true": TRUE, "shuffled": BLIND, "none": BLIND}, SAMPLES, TRUTH, ("free", "other"), 0, several
    )
    assert found["all"]["policy, true images"]["min_ade"].value == 0.0


def test_targets_are_met_by_sight_and_missed_without():
    assert [holds for _, _, holds in tables.targets(FOUND["all"])] == [True] * 5
    blind = tables.open_loop_tables(
        {"true": BLIND, "shuffled": BLIND, "none": TRUE}, SAMPLES, TRUTH, ("free", "other")
    )
    assert [holds for _, _, holds in tables.targets(blind["all"])] == [False] * 5


def test_report_holds_every_cell_and_is_json():
    page, text = tables.report(FOUND, {"run": "r"})
    plain = json.loads(text)
    assert plain["tables"]["other"]["policy, true images"]["decision"]["value"] == 50.0
    assert len(plain["targets"]) == 5 and all(t["holds"] for t in plain["targets"])
    assert tables.show(bootstrap.Interval(75.0, 25.0, 100.0), "decision") in page
    assert "family other" in page and "nan" not in page.lower()
    assert "75.0 (" in tables.console(FOUND["all"], "title")
