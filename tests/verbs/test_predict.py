"""The verb from the command line to its files, with a policy of random weights; numbers against NumPy."""

import html
import io
import json
import os
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest

from ar1_jax import main
from ar1_jax.core.types import Plan
from ar1_jax.data import examples
from ar1_jax.policy import loading
from ar1_jax.verbs import predict

ROOT = pathlib.Path(__file__).parents[2]
REAL = os.environ.get("AR1_REAL_DATA")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder with an untrained nano."""
    path = tmp_path_factory.mktemp("policy") / "nano"
    loading.create("nano", jax.random.key(0)).save(path)
    return path


def call(policy, root, *more, config="predict:quick"):
    return main.main([f"--config={config}", f"--config.policy={policy}", f"--config.root={root}",
                      "--config.samples=2", *more])  # fmt: skip


def test_writes_picture_numbers_and_page(policy, tmp_path, capsys):
    assert call(policy, tmp_path) == 0
    run = tmp_path / "predict_quick"
    said, record = capsys.readouterr().out, json.loads((run / "plans" / "00_light_0.json").read_text())
    assert PIL.Image.open(run / "figures" / "00_light_0.png").size[0] == 1440
    page = html.unescape((run / "report.html").read_text())
    for sample in record["samples"]:
        assert np.shape(sample["trajectory_xyz_m"]) == (64, 3) and sample["reasoning"] in page
        assert sample["reasoning"] in said
    ways, truth = (
        [np.asarray(s["trajectory_xyz_m"]) for s in record["samples"]],
        np.asarray(record["future_xyz_m"]),
    )
    ade = [np.linalg.norm((way - truth)[:, :2], axis=-1).mean() for way in ways]
    np.testing.assert_allclose(record["measures"]["ade_best_m"], min(ade), atol=1e-3)
    np.testing.assert_allclose(record["measures"]["ade_mean_m"], np.mean(ade), atol=1e-3)
    assert record["expected_reasoning"] in said and str(run / "figures" / "00_light_0.png") in said


def test_same_seed_same_plans(policy, tmp_path):
    for name in ("a", "b"):
        assert call(policy, tmp_path, f"--config.name={name}") == 0
    first, second = ((tmp_path / n / "plans" / "00_light_0.json").read_text() for n in "ab")
    assert first == second


def test_a_forced_reasoning_is_what_every_sample_says(policy, tmp_path):
    text = "Stop, keep lane: red light within 24 m."
    assert call(policy, tmp_path, f"--config.reasoning={text}") == 0
    record = json.loads((tmp_path / "predict_quick" / "plans" / "00_light_0.json").read_text())
    assert [s["reasoning"] for s in record["samples"]] == [text] * 2
    assert [s["decision"] for s in record["samples"]] == ["stop, lane keeping"] * 2


def test_a_folder_of_ones_own(policy, tmp_path, capsys):
    assert call(policy, tmp_path, f"--config.scene={examples.SHIPPED / 'comma2k19'}") == 0
    said = capsys.readouterr().out
    assert "t0 = 1.600 s" in said and "cameras [0, 2, 6] of the policy are absent" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.scene=nowhere", "nowhere: no such folder"),
        ("--config.samples=0", "at least one plan"),
        ("--config.decoder=flows", 'did you mean "flow"'),
        ("--config.families=lights", 'did you mean "light"'),
        ("--config.recordings=comma", 'did you mean "comma2k19"'),
        ("--config.t0=3.0", "give config.scene"),
        ("--config.policy=nowhere", "nowhere: no such folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(policy, tmp_path, capsys, override, message):
    assert call(policy, tmp_path, override) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*/plans/*"))


def test_the_strip_shows_what_the_policy_reads():
    class Stub:
        class config:
            min_pixels = max_pixels = 160 * 96

    example = examples.shipped(frames=1)
    still = np.zeros((1, 64, 3))
    plan = Plan(
        still, np.eye(3)[None, None].repeat(64, 1), None, None, ("",), None, None, None, np.array([True])
    )
    picture = np.asarray(PIL.Image.open(io.BytesIO(predict.draw(Stub, example, plan))).convert("RGB"))
    inside = picture[48 + 16 + 8 :, 48:][: 96 * 3, : 128 * 4]  # 128 x 96, four times as large
    blocks = inside[:, 2::4][:, :-1] == inside[:, 3::4][:, :-1]
    assert blocks.mean() > 0.9 and np.unique(inside).size > 50


def test_the_world_is_drawn_where_the_road_is():
    """The driver keeps its lane, so the lane marks at its sides keep half a lane's distance from its way."""
    example = examples.world(0, "free")
    _, right, left, _, *_ = example.lanes
    way = example.future_xyz[:, :2]
    gaps = [np.linalg.norm(way[:, None] - line[None], axis=-1).min(1) for line in (right, left)]
    assert all(1.0 < gap.min() and gap.max() < 3.0 for gap in gaps)
    assert (
        np.isfinite(example.agents).any()
        and example.trace
        and example.scene.images.shape == (4, 1, 96, 160, 3)
    )


@pytest.mark.skipif(not REAL, reason="needs AR1_REAL_DATA=folder of real recordings; they may not be shipped")
@pytest.mark.parametrize("name", ["kitti_odometry_06", "kitti_turn", "nuscenes_mini_sample"])
def test_real_recordings_are_planned_for(policy, tmp_path, name):
    assert call(policy, tmp_path, f"--config.scene={REAL}/{name}") == 0
