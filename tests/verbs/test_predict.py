"""The verb from the command line to its files, with a policy of random weights; numbers against NumPy."""

import html
import io
import json
import os
import pathlib
import re

import jax
import numpy as np
import PIL.Image
import pytest

from ar1_jax import main
from ar1_jax.core.types import Plan
from ar1_jax.data import examples
from ar1_jax.policy import loading, sampling
from ar1_jax.policy import policy as policies
from ar1_jax.verbs import predict
from tests.policy import folders

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
        ("--config.batch=0", "at least one scene"),
        ("--config.question=What is ahead?", "was not trained on questions"),
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


@pytest.mark.slow
def test_scenes_in_batches_are_those_planned_alone_and_compile_once(policy, tmp_path):
    """Three scenes of one layout in batches of two: the last is filled up, so that the second compiles nothing."""
    some = (
        "--config.families=light,free,lead",
        "--config.flow_steps=1",
        "--config.samples=5",
        "--config.batch=2",
    )
    stages = (policies.prefill, sampling.sample, policies.flow, policies.trajectories)
    count = lambda: np.array([stage._cache_size() for stage in stages])
    before = count()
    assert call(policy, tmp_path, *some) == 0
    assert (count() - before <= 1).all() and count()[1] - before[1] == 1
    records = [
        json.loads(line) for line in (tmp_path / "predict_quick" / "plans.jsonl").read_text().splitlines()
    ]
    assert [r["scene"] for r in records] == ["light_0", "free_1", "lead_2"]
    assert records[0]["samples"][0]["reasoning"] != records[1]["samples"][0]["reasoning"]
    alone = loading.load(policy).plan(
        examples.world(2, "lead").scene, samples=5, key=jax.random.fold_in(jax.random.key(0), 2), flow_steps=1
    )
    assert [sample["reasoning"] for sample in records[2]["samples"]] == list(alone.reasoning)
    ways = [sample["trajectory_xyz_m"] for sample in records[2]["samples"]]
    np.testing.assert_allclose(ways, alone.trajectory_xyz, atol=2e-3)
    assert count()[1] - before[1] == 2  # the probe: a batch of another length is counted


def test_batches_have_one_layout_and_one_length():
    small, large = (1, 1, 96, 160, 3), (4, 1, 96, 160, 3)
    shapes = [small, large, large, small, large, large, large]
    assert predict.batches(shapes, 2) == [[0, 3], [1, 2], [4, 5], [6, 6]]
    assert predict.batches(shapes[:3], 8) == [[0], [1, 2]]
    assert predict.batches([], 4) == []


def test_lines_hold_what_the_files_hold_under_the_documented_keys(policy, tmp_path):
    assert call(policy, tmp_path, "--config.counterfactual=Keep speed, keep lane: road clear.") == 0
    run = tmp_path / "predict_quick"
    (line,) = (run / "plans.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record == json.loads((run / "plans" / "00_light_0.json").read_text())
    assert (run / record["figure"]).is_file()
    keys = set(record) | set(record["samples"][0]) | set(record["counterfactual"]) | set(record["measures"])
    documented = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "predict.md").read_text(), flags=re.MULTILINE)
    )
    assert keys == documented
    turned = np.asarray(record["samples"][0]["trajectory_xyz_m"])[:, :2]
    steps = np.diff(turned, axis=0)
    moving = np.linalg.norm(steps, axis=1) > 0.3
    heading = np.arctan2(steps[:, 1], steps[:, 0])[moving]
    np.testing.assert_allclose(
        np.asarray(record["samples"][0]["trajectory_heading_rad"])[1:][moving], heading, atol=0.05
    )


def test_another_belief_is_planned_with_the_same_noise_and_measured(policy, tmp_path, capsys):
    text = "Keep speed, keep lane: road clear."
    assert call(policy, tmp_path, f"--config.counterfactual={text}") == 0
    record, out = (
        json.loads((tmp_path / "predict_quick" / "plans.jsonl").read_text()),
        capsys.readouterr().out,
    )
    other = record["counterfactual"]
    assert [sample["reasoning"] for sample in other["samples"]] == [text] * 2
    own, moved = (
        np.asarray([s["trajectory_xyz_m"] for s in which["samples"]])[..., :2] for which in (record, other)
    )
    wanted = np.linalg.norm(own - moved, axis=-1).mean() / np.linalg.norm(own[0] - own[1], axis=-1).mean()
    np.testing.assert_allclose(other["influence"], wanted, rtol=2e-3)
    assert f"told to believe: {text}" in out and f"influence of its reasoning: {wanted:.1f}" in out
    same = record["samples"][0]["reasoning"]
    assert (
        call(
            policy,
            tmp_path,
            f"--config.reasoning={text}",
            f"--config.counterfactual={text}",
            "--config.samples=1",
        )
        == 0
    )
    record = json.loads((tmp_path / "predict_quick" / "plans.jsonl").read_text())
    assert record["counterfactual"]["influence"] is None and same
    np.testing.assert_allclose(
        record["counterfactual"]["samples"][0]["trajectory_xyz_m"],
        record["samples"][0]["trajectory_xyz_m"],
        atol=2e-3,
    )


def test_words_and_routes_that_the_policy_does_not_know_are_said(policy, tmp_path, capsys):
    assert (
        call(
            policy,
            tmp_path,
            "--config.route=Turn left",
            "--config.counterfactual=Keep speed, keep lane: aliens.",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "route 'Turn left': alpamayo_nano was never shown routes" in out
    assert "route: the policy knows not all of its words and reads '<unknown> left'" in out
    assert "config.counterfactual: the policy knows not all of its words" in out
    assert json.loads((tmp_path / "predict_quick" / "plans.jsonl").read_text())["route"] == "Turn left"


@pytest.mark.slow
def test_a_question_is_answered_where_the_policy_knows_questions(tmp_path, capsys):
    question, path = "Is the road clear?", folders.folder("v15_small")
    more = ("--config.frames=1", "--config.max_new_tokens=8", "--config.flow_steps=1", "--config.samples=1")
    shipped = f"--config.scene={examples.SHIPPED / 'comma2k19'}"
    assert call(path, tmp_path, f"--config.question={question}", shipped, *more) == 0
    record = json.loads((tmp_path / "predict_quick" / "plans.jsonl").read_text())
    policy = loading.load(path)
    scene = predict.prepare(policy, examples.shipped(frames=1), frames=1, question=question).scene
    assert record["answer"] == policy.answer(scene, temperature=0, max_new_tokens=8).text
    out = capsys.readouterr().out
    assert f"question: {question}" in out and f"answer: {record['answer'] or '(no text)'}" in out


def test_ways_that_no_camera_shows_are_remarked_on():
    scene, ways = examples.world(0, "free").scene, np.zeros((2, 64, 3), np.float32)
    plan = Plan(ways, *[None] * 3, ("", ""), *[None] * 4)
    assert "in no camera's picture" in predict.not_drawn(scene, plan)[0]
    assert "calibration is absent" in predict.not_drawn(scene.replace(calibration=None), plan)[0]
    assert predict.not_drawn(scene, plan.replace(trajectory_xyz=ways + [20, 0, 0])) == []


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
