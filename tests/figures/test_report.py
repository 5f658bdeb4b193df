"""Report pages: their text read with an HTML parser of its own, and looked at in Chromium where there is one."""

import html.parser
import io
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from ar1_jax.figures import curves, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "img", "br", "line", "path"}
SECTIONS = [
    {"kind": "text", "text": "First <b>.\n\nSecond.", "html": "<p>kept <i>as is</i></p>"},
    {"kind": "table", "title": "T", "columns": ["metric", "value"], "rows": [["a & b", 0.25], ["c", None]],
     "note": "N"},
    {"kind": "curves", "title": "C", "series": [
        {"name": "up", "x": [0, 1, 2], "y": [0.0, 1.0, 4.0]},
        {"name": "left", "panel": "both", "x": [0, 1], "y": [1, 2]},
        {"name": "right", "panel": "both", "x": [0, 1], "y": [2, 1]},
        {"name": "a_long_name_with_underscores_that_cannot_break_where_it_should" * 2, "x": range(99),
         "y": np.sin(np.arange(99))},
    ]},
]  # fmt: skip


def picture(width=1440, height=300):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "png")
    return buffer.getvalue()


ROLLOUTS = {"kind": "rollouts", "title": "R", "items": [
    {"image_png_bytes": picture(), "title": "best", "captions": ["Stop <now>."], "facts": {"reward": 0.5}},
    {"captions": ["no picture"]},
]}  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order; collects text and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader, " ".join(" ".join(reader.text).split())


def test_all_kinds_are_said_and_escaped(tmp_path):
    path = report.render(tmp_path / "report.html", "Title & more", [*SECTIONS, ROLLOUTS], "sub")
    _, text = read(path)
    for part in ("Title & more", "First <b>.", "kept as is", "a & b 0.25", "not run", "N", "last 4", "left 2",
                 "right 1", "Stop <now>.", "reward 0.5", "no picture"):  # fmt: skip
        assert part in text, part


def test_nothing_is_fetched(tmp_path):
    path = report.render(tmp_path / "report.html", "t", [*SECTIONS, ROLLOUTS])
    reader, _ = read(path)
    assert [a for a in reader.addresses if not a.startswith(("data:", "#"))] == []
    assert not re.search(r"<script|@import|url\(|https?://", path.read_text())


def test_what_does_not_fit_is_named_at_once():
    wrong = [
        {"kind": "tables"},
        {"kind": "table", "columns": ["a"], "rows": [[1, 2]]},
        {"kind": "curves", "serie": []},
    ]
    with pytest.raises(ValueError) as error:
        report.check(wrong)
    for part in (
        "section 0",
        "'tables' is none of",
        "row 0 has 2 cells for 1",
        "lacks 'series'",
        "unknown key 'serie'",
    ):
        assert part in str(error.value)


def test_cells_by_hand():
    assert report.cell(np.float32(0.123456)) == ("0.123", "number")
    assert report.cell(12000) == ("12,000", "number") and report.cell(True) == ("yes", "")
    assert report.cell(float("nan")) == ("nan", "missing") and report.cell("x") == ("x", "")
    assert (
        report.cell("+0.5 (0.1 to 0.9)")[1] == "figures"
        and report.cell("2 cars and a long story about them")[1] == ""
    )


def test_curve_points_by_hand():
    panel = curves.panels([{"name": "up", "x": [0, 1, 2], "y": [0.0, 2.0, 4.0]}])[0]
    points = re.search(r'd="M([^"]*)"', panel.svg).group(1).split()
    x0, x1, y0, y1 = curves.LEFT, curves.WIDTH - curves.RIGHT, curves.HEIGHT - curves.BOTTOM, curves.TOP
    assert points == [f"{x0:.1f},{y0:.1f}", f"{(x0 + x1) / 2:.1f},{(y0 + y1) / 2:.1f}", f"{x1:.1f},{y1:.1f}"]


def test_missing_values_leave_gaps_and_do_not_move_the_axes():
    panel = curves.panels([{"name": "g", "x": [0, 1, 2, 3], "y": [1.0, None, float("inf"), 3.0]}])[0]
    assert panel.svg.count("M") == 2 and panel.legend[0][2] == "3" and "nan" not in panel.svg
    assert curves.panels([{"name": "e", "x": [], "y": []}])[0].legend[0][2] == "no values"


def test_running_mean_equals_a_loop():
    y = np.random.default_rng(0).normal(size=30)
    y[[3, 17]] = np.nan
    wanted = [np.nanmean(y[max(0, i - 3) : i + 1]) for i in range(30)]
    np.testing.assert_allclose(curves.running_mean(y, 4), wanted, atol=1e-12)


@pytest.mark.parametrize("span", [(0, 1), (-3.2, 7.7), (1e-5, 4e-5), (5, 5), (0, 0), (12000, 13000)])
def test_ticks_enclose_and_are_few(span):
    around, inside = curves.ticks(*span, 5), curves.ticks(*span, 5, inside=True)
    assert around[0] <= span[0] + 1e-9 and around[-1] >= span[1] - 1e-9 and 2 <= len(around) <= 8
    if span[0] < span[1]:
        assert inside and span[0] - 1e-6 <= inside[0] and inside[-1] <= span[1] + 1e-6


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in the PATH; .ci/run installs it")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_the_screen_in_chromium(tmp_path, width, dark):
    """Nothing reaches past the right edge, and the scheme is the one asked for. The page sits in a frame, because
    Chromium's own window is never narrower than 500 px."""
    report.render(
        tmp_path / "report.html", "A title long enough to be wrapped on a small screen", [*SECTIONS, ROLLOUTS]
    )
    style = f"width:{width}px;height:2600px;border:0"
    frame = f'<body style="margin:0;background:#00f"><iframe src="report.html" style="{style}">'
    (tmp_path / "frame.html").write_text(f"<!doctype html>{frame}</iframe></body>")
    shot, scheme = tmp_path / "shot.png", ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", *scheme,
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2600", f"--screenshot={shot}",
               (tmp_path / "frame.html").as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = np.asarray(PIL.Image.open(shot).convert("RGB"))[:, :width].astype(int)
    ground = (0x13, 0x15, 0x18) if dark else (255, 255, 255)
    assert (page[:, -10] == ground).all(), "something reaches into the right margin"
    assert (page[:, 3] == ground).all() and (page != ground).any(-1).mean() > 0.05
    red = (np.abs(page - (200, 30, 30)).sum(-1) < 20).any(
        0
    )  # the rollout's picture: as wide as its card allows
    assert red.sum() > 0.85 * width
