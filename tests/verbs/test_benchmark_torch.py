"""The benchmark's comparison: transformers on the exported weights says the same ids, at one and at several samples."""

import dataclasses
import sys

import pytest

from ar1_jax import main
from ar1_jax.evaluate import timing, workload

torch = pytest.importorskip("torch", reason="torch is absent: pip install -e '.[torch]'")
pytest.importorskip("transformers", reason="transformers is absent: pip install -e '.[torch]'")
LOAD = workload.Workload("nano", images=2, rows=4, columns=6, text=20, tokens=8, room=10, steps=1, repeats=1)


@pytest.mark.slow
def test_both_engines_read_the_same_prompt_and_say_the_same(tmp_path):
    from ar1_jax.evaluate import timing_torch

    workload.export(LOAD, tmp_path)
    for k in (1, 3):
        load = dataclasses.replace(LOAD, samples=k)
        ours, theirs = timing.measure(load), timing_torch.measure(load, str(tmp_path))
        assert ours["ids"] == theirs["ids"] and ours["tokens"] == theirs["tokens"] == [8] * k
        assert (
            len(ours["ids"]) == k and len(set(ours["ids"][-1])) > 1
        )  # the probe: a constant answer would agree by accident
        assert set(theirs["seconds"][0]) == {"vision", "prefill", "decode"}
    other = timing.measure(dataclasses.replace(LOAD, seed=1))
    assert other["ids"] != ours["ids"]  # the probe: other weights say other things


@pytest.mark.slow
def test_the_verb_compares(tmp_path):
    words = ["--config=benchmark", "--config.samples=1", "--config.compare=1", "--config.repeats=1",
             "--config.images=1", f"--config.root={tmp_path}", f"--config.torch_python={sys.executable}"]  # fmt: skip
    assert main.main(words) == 0
    text = (tmp_path / "benchmark_nano/benchmark.md").read_text()
    assert "| transformers | 1 | total |" in text and workload.STAGES[0] in text and "| yes |" in text
