"""The verb from the command line to its files, rows in processes of their own; tables against numbers by hand."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from ar1_jax import main
from ar1_jax.core import config as configs
from ar1_jax.core import errors
from ar1_jax.evaluate import timing, timing_tables, workload
from ar1_jax.models import alpamayo
from ar1_jax.verbs import benchmark

LOAD = workload.Workload(
    "nano", images=2, rows=2, columns=4, text=6, samples=2, tokens=3, room=5, steps=2, repeats=1
)


def row(engine, k, seconds, ids=(7,)):
    """A row as its process would write it; seconds: one dict a repeat."""
    return {"engine": engine, "workload": vars(dataclasses.replace(LOAD, samples=k)), "seconds": seconds,
            "processor_seconds": seconds, "tokens": [3] * k, "ids": list(ids), "peak_bytes": 10**9,
            **({"rates": {"flops": 1e9, "bytes": 1e9}} if engine == "ours" else {})}  # fmt: skip


@pytest.mark.slow
def test_a_run_measures_its_rows_once_and_goes_on_with_the_missing_ones(tmp_path, capsys):
    words = ["--config=benchmark", "--config.samples=1,2", f"--config.root={tmp_path}", "--config.repeats=1",
             "--config.images=1", "--config.text=6", "--config.tokens=3", "--config.steps=1"]  # fmt: skip
    assert main.main(words) == 0
    folder = tmp_path / "benchmark_nano"
    first, second = (folder / "rows" / f"0_ours_{k}.json" for k in (1, 2))
    found = json.loads(second.read_text())
    assert set(found["seconds"][0]) == set(workload.STAGES) and found["tokens"] == [3, 3]
    assert found["peak_bytes"] >= found["peak_bytes_loaded"] > 10**8
    assert min(found["rates"].values()) > 1e8
    assert "| ours | 2 | total |" in (folder / "benchmark.md").read_text()
    assert (folder / "figures/stages.png").stat().st_size > 5000
    kept = first.read_bytes()
    second.unlink()
    assert main.main(words) == 0
    assert first.read_bytes() == kept and second.exists()


def test_a_fat_parent_does_not_show_in_its_childs_peak():
    child = "from ar1_jax.evaluate import timing; print(timing.resident_peak(), timing.inherited_peak())"
    parent = ("import subprocess, sys; fat = bytearray(b'1') * 2**30; "
              f"print(subprocess.check_output([sys.executable, '-c', {child!r}], text=True))")  # fmt: skip
    own, inherited = map(int, subprocess.check_output([sys.executable, "-c", parent], text=True).split())
    assert 10**7 < own < 2**30 < inherited  # the probe: what is inherited does show the parent


def test_exported_weights_lie_apart_for_everything_that_makes_them(tmp_path):
    policy = tmp_path / "one" / "policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    others = [
        {},
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"size": "0p5b"},
        {"policy": "nano"},
        {"policy": str(policy)},
    ]
    of = lambda **other: benchmark.weights_folder(dataclasses.replace(LOAD, **other), tmp_path)
    found = [of(**other) for other in others]
    (policy / "config.json").write_text("{ }")
    found.append(of(policy=str(policy)))
    assert len(set(found)) == 7 and all(path.parent == tmp_path for path in found)
    assert (
        of(samples=16, tokens=4, threads=1) == found[0]
    )  # the probe: what changes no weight changes no place


def test_rows_that_are_compared_come_first(monkeypatch):
    monkeypatch.setattr(benchmark, "python_of", lambda config: "python")
    config = configs.load("benchmark", {"samples": "1,6,16", "compare": "1,6"})
    found = [name for name, _, _ in benchmark.rows(config, LOAD)]
    assert found == ["0_ours_1", "0_transformers_1", "0_ours_6", "0_transformers_6", "0_ours_16"]


def test_the_stages_are_those_of_a_plan():
    """Vision asked first gives the same prefix as vision inside, and the greedy ids are the reading's own."""
    model, marks = workload.model_of(LOAD)
    params, prompt = workload.params_of(LOAD, model), workload.prompt_of(LOAD, model, marks)
    kept = {}

    def clock(name, stage, *arguments, **options):
        kept[name] = stage(*arguments, **options)
        return kept[name]

    done = timing.run_stages(LOAD, model, params, prompt, clock)
    np.testing.assert_allclose(
        kept["prefill"].hidden, alpamayo.prefill(model, params, prompt).hidden, atol=1e-5
    )
    assert prompt.input_ids.shape == (1, LOAD.prompt) and done.ids.shape == (1, 2, 5)
    assert kept["decode"].rounds == 3 and done.suffix.k.shape[4] == 5  # a limit uses only part of the room
    said = done.ids[..., :3]
    hidden = alpamayo.completion_hidden(model, params, kept["prefill"], said)
    np.testing.assert_array_equal(alpamayo.logits(params, hidden).argmax(-1), said)
    assert kept["flow"].shape == (1, 2, model.actions, 2)


def test_tables_hold_percentiles_floors_and_ratios():
    base = {"vision": 1.0, "prefill": 2.0, "decode": 3.0}
    ours = [row("ours", 6, [base | {"flow": t}]) for t in (1.0, 2.0, 6.0)]
    theirs = [
        row("transformers", 1, [base]),
        row("transformers", 6, [{"vision": 6, "prefill": 16, "decode": 18}]),
    ]
    lines = {line["stage"]: line for line in timing_tables.stages(timing_tables.joined(ours)["ours", 6])}
    assert (
        lines["flow"]["p50"] == 2
        and lines["total"]["p50"] == 8
        and lines["flow"]["p90"] == pytest.approx(5.2)
    )
    counted = LOAD.costs(workload.model_of(LOAD)[0])["vision"]
    assert lines["vision"]["floor"] == max(counted.flops, counted.bytes) / 1e9
    (found,) = timing_tables.ratios([*ours, *theirs])
    assert found["K"] == 6 and found["same ids"] and found["one prefill / theirs"] == 1
    assert (found["total with flow / theirs"], found["total without flow / theirs"]) == (0.2, 0.15)
    assert found["tokens a second / theirs"] == 6 and found["vision + prefill / theirs"] == 3 / 22
    (alone, _, _) = timing_tables.shares([*ours, *theirs])
    assert alone == {"engine": "ours", "K": 6, "flow / total": 0.25}
    text = timing_tables.markdown([*ours, *theirs, row("ours", 1, [base | {"flow": 1.0}])])
    assert (
        "| ours | 6 | total | 8.000 | 7.000..12.000 |" in text
        and "| ours | 6 | total without flow | 6.000 |" in text
    )
    assert "| ours | 6 | 0.250 | 1.000 |" in text and timing_tables.NOTES[1] in text


def test_floors_of_known_chips_are_the_written_ones(tmp_path, capsys):
    """H100, one sample: 12 ms vision, 46 ms prefill, 4.7 ms a token, 15 ms for ten steps (inference.md section 12)."""
    assert main.main(["--config=benchmark:floors", f"--config.root={tmp_path}"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| H100 | 1 | 1 |"))
    found = [float(x) for x in line.split("|")[4:8]]
    np.testing.assert_allclose(found, [12, 46, 4.7, 15], rtol=0.07)


def test_what_cannot_be_timed_is_refused():
    wrong = {"rows=3": "even number", "samples=0": "from 1 on", "size=1b": "1b", "repeats=0": "at least 1",
             "room=17": "at least config.tokens=18"}  # fmt: skip
    for word, message in wrong.items():
        with pytest.raises(errors.ConfigError, match=message):
            name, value = word.split("=")
            benchmark.workload_of(configs.load("benchmark", {name: value}))


def test_a_child_that_fails_is_quoted_without_what_jax_adds(tmp_path):
    words = "ValueError: the reason", "-" * 20, "For simplicity, JAX has removed its internal frames"
    child = [sys.executable, "-c", f"import sys; sys.exit({chr(10).join(words)!r})"]
    with pytest.raises(errors.Ar1Error, match="ended with 1: ValueError: the reason"):
        benchmark.call(child, tmp_path, types.SimpleNamespace(say=print))
