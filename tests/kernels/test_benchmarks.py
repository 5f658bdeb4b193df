"""The benchmark command at tiny sizes: ways are checked before they are timed, what cannot run says why, calls are
timed whole, tables say what was measured, and the README's tables are those of the counts."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend, counts
from benchmarks import __main__ as command
from benchmarks import check, providers, readme, report, sweep, timing
from benchmarks.cases import LogProb, cases

QUICK = ["--tiny", "--repeats", "1", "--seconds", "0", "--cache", "0"]
NO_SIMULATOR = "^(?!.*gpu, interpreted)"  # GPU kernels take it a minute; the slow test has them
TINY = {case.name: case for case in cases(tiny=True)}


def run(folder, *words):
    """(exit code, what the command wrote as JSON, and as Markdown)."""
    code = command.main([*QUICK, "--out", str(folder), *words])
    return code, json.loads(next(folder.glob("*.json")).read_text()), next(folder.glob("*.md")).read_text()


def test_every_way_is_timed_or_says_why_not(tmp_path):
    code, out, page = run(tmp_path, "--case", "decode, one scene", "--way", NO_SIMULATOR)
    rows = {row["way"]: row for row in out["rows"]}
    assert code == 0
    for way in (
        "ours, auto",
        "ours, xla",
        "ours, pallas_tpu, interpreted",
        "repeated: ours, xla",
        "repeated: jax.nn, xla",
    ):
        assert rows[way]["status"] == "timed", rows[way]
        assert rows[way]["seconds"]["median"] > 0 and 0 < rows[way]["error"] < out["bound"]
    for way in ("ours, pallas_tpu", "ours, pallas_gpu", "repeated: jax.nn, cudnn"):
        assert rows[way]["status"] == "refused" and len(rows[way]["reason"]) > 20, rows[way]
        assert f"| {way} | - | refused: {rows[way]['reason']}"[:60] in page
    assert out["ceilings"]["flops"] > 0 and out["versions"]["jax"] == jax.__version__


def test_gradients_are_checked_and_timed(tmp_path):
    code, out, _ = run(
        tmp_path, "--case", "log-probability, forward and backward", "--dtype", "float32", "--way", "o"
    )
    rows = {row["way"]: row for row in out["rows"]}
    assert code == 0 and rows["four products"]["status"] == "timed" and "error" not in rows["four products"]
    for way in ("ours, xla", "whole logits"):
        assert rows[way]["status"] == "timed" and rows[way]["error"] < 1e-5


@pytest.mark.slow
def test_the_whole_table_runs(tmp_path):
    """As a person calls it: a process of its own, from the folder of the kernels, with no path set."""
    words = [sys.executable, "-m", "benchmarks", *QUICK, "--dtype", "bfloat16", "--out", str(tmp_path)]
    free = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    done = subprocess.run(words, cwd=readme.PAGE.parent, capture_output=True, text=True, env=free)
    assert done.returncode == 0, done.stdout + done.stderr
    out = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {row["case"] for row in out["rows"]} == set(TINY)
    for case in TINY:
        ways = {row["way"] for row in out["rows"] if row["case"] == case and row["status"] == "timed"}
        assert {"ours, auto", "ours, xla", "ours, pallas_tpu, interpreted"} <= ways, case
        assert ("ours, pallas_gpu, interpreted" in ways) == (case in providers.SIMULATED), case
    assert set(providers.SIMULATED) < set(TINY)


def wrong(row):
    """A way whose last row is off."""

    def function(**arrays):
        out = providers.ours("xla", TINY["prefill"])(**arrays)
        return out.at[row].multiply(1.5)

    return providers.Provider(function)


def test_a_way_whose_numbers_are_off_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        command, "providers", lambda case, tiny: {"mended": wrong((0, -1, 0)), "broken": wrong((0, -1))}
    )
    code, out, page = run(tmp_path, "--case", "prefill", "--dtype", "float32")
    assert code == 1
    assert all(
        row["status"] == "failed" and "seconds" not in row
        for row in out["rows"]
        if "backward" not in row["case"]
    )
    assert "failed: error of out above 0.0001" in page


def worst(case, got, want):
    return check.errors(TINY[case], got, want, "bfloat16")[0]


def test_an_error_in_one_row_is_seen_and_nothing_to_compare_is_refused():
    want = {"out": np.ones((1, 24, 4, 16)), "d_q": np.zeros((1, 24, 4, 16))}
    want["d_q"][0, 0] = 1.0
    assert worst("prefill", want, want)[1] == 0
    off = want["out"].copy()
    off[0, 23, 3, 0] += 0.4  # a row of sixteen ones has length 4
    assert worst("prefill", {"out": off, "d_q": want["d_q"]}, want) == (
        "out",
        pytest.approx(0.1, rel=1e-5),
        0.03,
    )
    off[0, 23, 3, 0] = np.nan
    assert worst("prefill", {"out": off}, want)[1] == np.inf
    small = want["d_q"].copy()
    small[0, 5, 0, 0] = 0.1  # a row of zeros is measured by the rows' root mean square, 4 / sqrt(24)
    expected = pytest.approx(0.1 * 24**0.5 / 4, rel=1e-5)
    assert worst("prefill", {"out": want["out"], "d_q": small}, want) == ("d_q", expected, 0.03)
    with pytest.raises(ValueError, match="nothing to compare"):
        worst("prefill", {"d_q": small}, want)


def test_log_probabilities_are_compared_as_they_are():
    want = {"out": np.full(16, -100.0), "total": np.array(-1600.0)}
    for got in ({"out": want["out"] + 0.02}, {"total": want["total"] + 0.32}):
        assert worst("log-probability", got, want)[1:] == (pytest.approx(0.02, rel=1e-2), 1e-3)


@pytest.mark.parametrize(
    ("name", "other"),
    [("vision", "jax.nn, xla"), ("expert", "repeated: jax.nn, xla"), ("learner", "repeated: jax.nn, xla"),
     ("log-probability, forward and backward", "whole logits")],
)  # fmt: skip
def test_the_reference_is_what_an_independent_way_computes(name, other):
    """Segments are pieces, a repeated prefix is a shared one: so a wrong reference cannot agree with itself."""
    case = TINY[name]
    arrays = case.arguments(jax.random.key(1), jnp.float32)
    way = providers.providers(case)[other]
    got = jax.jit(check.outputs(case, way.function))(**way.prepare(arrays))
    found = check.errors(case, got, check.reference(case, arrays), "float32")
    assert all(error < 1e-5 for _, error, _ in found), found
    assert {line[0] for line in found} >= ({"out", "d_hidden", "d_weight"} if case.backward else {"out"})


def compiled(function):
    """The optimised program of three calls on one matrix."""
    x = jnp.ones((96, 96))
    program, arrays = timing.chain(function, [{"x": x, "y": x}] * 3)
    return program.lower(2, *arrays).compile().as_text(), program, arrays


def test_calls_are_made_whole_each_time():
    """Neither what depends on the other arrays only (y · y) leaves the loop, nor are equal calls merged, nor is only
    the number computed that the next call waits for."""
    text, program, arrays = compiled(lambda x, y: jnp.dot(x, jnp.dot(y, y)))
    entry = text[text.index("\nENTRY") :]
    ahead = re.findall(
        r" dot\(|fusion\(.*calls=%(?!wrapped_broadcast)", entry
    )  # zeros are made before the loop
    assert text.count("f32[96,96]{1,0} dot(") == 6 and not ahead
    out, token = program(2, *arrays)
    assert float(token) == 96.0**2 and all(np.array_equal(x, np.full((96, 96), 96.0**2)) for x in out)
    text, *_ = compiled(lambda x, y: jnp.exp(x * y))
    # roots of the loop's fusions: whole matrices of exponentials
    assert len(re.findall(r"ROOT %\S+ = f32\[96,96\]\{1,0\} exponential\(", text)) == 3


def test_on_a_gpu_arrays_keep_their_order_in_the_loop():
    """Compiled for an H200, XLA made the transposes of keys and values before the loop otherwise."""
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    with backend.tracing_for("gpu"):
        program, arrays = timing.chain(lambda x, y: x + y, [{"x": x, "y": x}] * 2)
        text = program.trace(1, *arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("LayoutConstraint") == 4


def test_what_is_faster_than_the_chip_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "KINDS", {"cpu": "H200"})
    monkeypatch.setitem(counts.CHIPS, "H200", counts.Chip(1.0, 1.0, 1.0))
    code, out, page = run(tmp_path, "--case", "log-probability", "--way", "one product")
    assert (
        code == 1
        and all("not all of it ran" in row["reason"] for row in out["rows"])
        and len(out["rows"]) == 1
    )
    assert "failed: faster than the chip can be" in page


def test_buffers_rotate_until_they_exceed_the_cache():
    make = lambda key: {"x": jax.random.normal(key, (250,))}
    assert [len(timing.rotating(make, cache)) for cache in (0, 900, 1000, 10_000, 1e9)] == [1, 1, 2, 11, 64]
    first, second = timing.rotating(make, 1000)
    assert not np.array_equal(first["x"], second["x"])


def test_a_table_says_rates_and_ratios(tmp_path):
    """1 ms for 500 GFLOP and 1 GB on an H200 (989 TFLOP/s, 4,800 GB/s) that reached 800 TFLOP/s and 4,000 GB/s."""
    row = {
        "case": "c", "sizes": "s", "way": "ours, auto", "status": "timed", "error": 0.001, "flops": 5e11, "bytes": 1e9,
        "temporaries": 2e6, "seconds": {"median": 1e-3, "fastest": 9e-4, "slowest": 2e-3, "calls": 1},
    }  # fmt: skip
    slow = row | {"way": "other", "seconds": row["seconds"] | {"median": 4e-3}}
    out = {
        "device": "NVIDIA H200", "chip": "H200", "dtype": "bfloat16", "date": "d", "tiny": False, "command": "c",
        "versions": {"jax": "1", "jaxlib": "1"}, "bound": 0.03, "nats": 0.001,
        "ceilings": {"flops": 8e14, "bandwidth": 4e12}, "rows": [row, slow],
    }  # fmt: skip
    page = report.markdown(out)
    roof = round(100 * 5e11 / 989e12 / 1e-3)
    assert f"| ours, auto | 1.0e-03 | 1000 | 900-2000 | 500 | 1000 | 62% | 25% | {roof}% | 2 | 1.00 |" in page
    assert "| 4.00 |" in page
    assert "Not measured yet" in readme.measured(tmp_path)
    (tmp_path / "H200.json").write_text(json.dumps(out))
    assert "#### c\n" in readme.measured(tmp_path) and "Not measured" not in readme.measured(tmp_path)


def test_devices_have_the_names_of_their_chips():
    names = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e", "NVIDIA H100 80GB HBM3": "H100",
             "NVIDIA H200": "H200", "cpu": None}  # fmt: skip
    assert {kind: report.chip_of(kind) for kind in names} == names


@pytest.mark.parametrize("operation", ["attention", "shared_prefix_attention", "linear_log_prob"])
def test_a_sweep_offers_block_sizes_that_exist(operation):
    case = next(case for case in TINY.values() if case.operation == operation)
    ways = sweep.providers(case, interpret=True)
    assert "ours, auto" in ways and len(ways) > 10
    for module, sizes in sweep.SIZES[operation].values():
        blocks = importlib.import_module(module).Blocks
        fields = getattr(blocks, "_fields", None) or [f.name for f in dataclasses.fields(blocks)]
        assert set(sizes) <= set(fields)


def test_the_readme_has_the_tables_of_the_counts():
    """`cd kernels && python -m benchmarks.readme` makes them."""
    text = readme.PAGE.read_text()
    assert readme.filled(text) == text
    changed = text.replace("| decode, one scene | 20.5", "| decode, one scene | 19.5")
    assert changed != text and readme.filled(changed) == text
    with pytest.raises(ValueError, match="0 blocks named chips"):
        readme.filled(text.replace("<!-- chips -->", ""))


def test_the_readme_shows_its_figures():
    names = set(re.findall(r"\]\(figures/(\w+)\.png\)", readme.PAGE.read_text()))
    assert names == {path.stem for path in (readme.PAGE.parent / "figures").glob("*.png")}
    assert names == {"attention", "shared_prefix", "log_prob", "roofline"}


def test_the_cases_are_those_of_the_released_model():
    full = {case.name: case.sizes for case in cases()}
    assert full["log-probability"] == LogProb(3200, 4096, 155_697) and set(full) == set(TINY)
    prefix = full["decode, one scene"]
    # one layer's prefix: 3,000 tokens of 8 kv heads of 128, keys and values in bf16
    assert prefix.prefix * prefix.kv_heads * prefix.head_width * 4 == 12_288_000 and prefix.samples == 16
