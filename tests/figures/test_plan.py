"""The picture of a plan, against pixels and drawn data read back from the figure itself."""

import io

import numpy as np
import PIL.Image
import pytest

from ar1_jax.figures import groups, plan

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (2, 3, 96, 160, 3)).astype(np.uint8)
HISTORY = np.stack([np.linspace(-15, 0, 16), np.zeros(16), np.zeros(16)], -1)
TIME = 0.1 * np.arange(1, 65)[:, None]
STRAIGHT, BENT = 10 * TIME * [1, 0, 0], np.concatenate([8 * TIME, 0.3 * TIME**2, 0 * TIME], -1)
WAYS = np.stack([STRAIGHT, BENT, STRAIGHT + [0, 0.1, 0]])
TEXTS = ("Keep speed, keep lane: road clear.", "Stop, keep lane: red light within 24 m.") + (
    "Keep speed, keep lane: road clear.",
)
ARGS = (IMAGES, ["front left", "front wide"], HISTORY, WAYS, TEXTS)


def decode(png):
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"))


def test_shows_the_very_pixels_of_the_last_frame_enlarged_by_a_whole_factor():
    picture = decode(plan.render(*ARGS))
    scale, _ = plan.strip_scale(plan.latest_frames(IMAGES))
    wanted = IMAGES[1, -1].repeat(scale, 0).repeat(scale, 1)
    room = (plan.WIDTH - 2 * plan.MARGIN - plan.GAP) / 2
    assert scale == 4 and room >= 640
    left, top = plan.MARGIN + 160 * scale + plan.GAP, 8 + 16 + 24
    near = [
        np.abs(picture[top + dy :, left + dx :][: 96 * scale, : 160 * scale].astype(int) - wanted).max()
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert min(near) == 0


@pytest.mark.parametrize("size", [(874, 1164), (900, 1600), (370, 1226), (2000, 300)])
def test_large_pictures_shrink_into_their_row(size):
    """Both ways at once: nothing of a picture reaches into the next row, and its shape stays."""
    frames = [np.zeros((*size, 3), np.uint8)] * 2
    scale, height = plan.strip_scale(frames)
    assert height <= plan.STRIP_HEIGHT and 2 * size[1] * scale + plan.GAP <= plan.WIDTH - 2 * plan.MARGIN + 1
    figure = plan.new_figure(1000)
    for box in plan.draw_strip(figure, 50, frames, ["a", "b"], scale):
        shown = box.get_position()
        assert shown.height * 1000 <= height + 1
        np.testing.assert_allclose(shown.height * 1000 / (shown.width * 1440), size[0] / size[1], rtol=1e-3)


def test_is_1440_wide_and_whole(tmp_path):
    png = plan.render(*ARGS, path=tmp_path / "plan.png", title="scene", truth=BENT)
    assert (tmp_path / "plan.png").read_bytes() == png
    assert decode(png).shape[1] == 1440 and len(list(tmp_path.iterdir())) == 1


def test_a_metre_is_a_metre_both_ways():
    for window in ((-20.0, 60.0, -7.0, 7.0), (-5.0, 55.0, -90.0, 7.0)):
        width, height = plan.WIDTH - 2 * plan.MARGIN, plan.view_height(window)
        x0, x1, y0, y1 = plan.fit_aspect(window, width / height)
        np.testing.assert_allclose(width / (x1 - x0), height / (y1 - y0))
        assert x0 <= window[0] and x1 >= window[1] and y0 <= window[2] and y1 >= window[3]


def test_truth_and_agents_change_the_picture_and_missing_agents_do_not():
    bare, agents = decode(plan.render(*ARGS)), np.array([[20.0, -3.5, 0.1, 4.5, 1.9]])
    assert (decode(plan.render(*ARGS, agents=agents)) != bare).any()
    assert (decode(plan.render(*ARGS, truth=BENT)) != bare).any()
    absent = np.array([[np.nan] * 5, [20, 0, 0, 0, 0]])
    np.testing.assert_array_equal(decode(plan.render(*ARGS, agents=absent)), bare)


def test_samples_that_reason_alike_are_one_kind_most_frequent_first():
    kinds = groups.group(TEXTS[1:] + TEXTS[:1], [""] * 3)
    assert [(k.letter, k.reasoning, k.members) for k in kinds] == [
        ("A", TEXTS[0], (1, 2)),
        ("B", TEXTS[1], (0,)),
    ]
    many = groups.group([str(i) for i in range(6)], [""] * 6)
    assert len({k.color for k in many}) == len({str(k.dash) for k in many}) == 6


def test_letters_of_ways_that_end_at_one_place_do_not_cover_each_other():
    figure = plan.new_figure(600)
    view = plan.axes(figure, 0, 0, 1440, 600)
    view.set(xlim=(0, 60), ylim=(-7, 7))
    taken = []
    for kind, end in zip(groups.group(list("abc"), [""] * 3), ([50, 0], [50.1, 0.05], [20, 0]), strict=True):
        plan.name_ends(view, np.array([end]), kind, taken)
    first, second, far = taken
    assert np.abs(first - second).max() >= plan.DISC and first[1] == far[1]
    drawn = [note.xyann for note in view.texts]
    np.testing.assert_allclose(drawn[0], (11, 0), atol=1e-6)
    assert drawn[1][1] >= 12 and [note.get_text() for note in view.texts] == ["A", "B", "C"]


def test_speeds_by_hand():
    np.testing.assert_allclose(plan.future_speeds(STRAIGHT), 10.0)
    np.testing.assert_allclose(plan.speeds([[0, 0, 0], [0.3, 0.4, 0]]), [5.0])
    ahead = np.broadcast_to(np.eye(3), (64, 3, 3))
    np.testing.assert_allclose(plan.future_speeds(STRAIGHT, ahead), 10.0)
    np.testing.assert_allclose(plan.future_speeds(-STRAIGHT, ahead), -10.0)


def test_long_reasoning_is_wrapped_and_its_cut_shown():
    kind = groups.group(["word " * 400], ["stop"])[0]
    lines = plan.reason_lines(kind, ["reward 0.5"])
    assert lines[0] == "stop" and lines[-1] == "reward 0.5" and lines[-2].endswith("…")
    assert len(lines) == plan.REASON_LINES + 2 and max(map(len, lines)) <= 78


def test_reasoning_is_shown_as_written_even_where_it_looks_like_mathematics():
    plan.render(
        IMAGES,
        ARGS[1],
        HISTORY,
        WAYS[:1],
        [
            "costs $5 at $x_{1",
        ],
    )  # would not parse as mathematics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_names": ["one"]}, "camera_names: 1 for 2 cameras"),
        ({"reasoning": ["x"]}, "reasoning: 1 texts for 3"),
        ({"notes": ["x"] * 2}, "notes: 2 texts for 3"),
    ],
)
def test_lengths_that_disagree_are_named(change, message):
    names = ("images", "camera_names", "history_xyz", "trajectories", "reasoning")
    with pytest.raises(ValueError, match=message):
        plan.render(**(dict(zip(names, ARGS, strict=True)) | change))
