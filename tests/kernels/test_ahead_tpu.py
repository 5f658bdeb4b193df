"""The operations compiled by the TPU's own compiler, without a TPU: they fit its VMEM and copy nothing large.

AR1_AHEAD_PYTHON names an interpreter with jax and libtpu; see ahead_tpu.py.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ahead_tpu.py")
PYTHON = os.environ.get("AR1_AHEAD_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="AR1_AHEAD_PYTHON names no interpreter with jax and libtpu"),
]
MIB = 2**20
VMEM = {"v4": 16 * MIB, "v5e": 128 * MIB, "v5p": 64 * MIB, "v6e": 128 * MIB, "tpu7x": 64 * MIB}
# Kernels in the program, and the most of temporaries in MiB on v5e and v6e. At head width 128 the forward passes need
# none; a backward pass holds dq in float32 before it is cast. At 72 rows and keys are laid out for 128 lanes, so that
# every array is copied once and takes 16/9 of its size. Scores would be 1,152 MiB (prefill) and 8,100 (packed images).
CASES = {
    "prefill": (1, 1), "prefill backward": (2, 40), "prefill float32": (1, 1),
    "images": (1, 100), "images backward": (2, 350), "packed images": (1, 100), "packed images backward": (2, 400),
    "decode 1": (1, 1), "decode 8": (1, 1), "expert": (1, 1), "learner 180": (1, 1), "learner 300": (1, 1),
    "learner 300 backward": (3, 220),
}  # fmt: skip
PREFIX = 8 * 3000 * 128  # elements of a scene's keys
SEQUENCES = {"decode 1": 16, "decode 8": 128, "expert": 16, "learner 180": 12, "learner 300": 12,
             "learner 300 backward": 12}  # fmt: skip


@functools.cache
def compiled(chip: str, *names: str) -> dict:
    run = subprocess.run([PYTHON, SCRIPT, chip, *names], capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    return {report["case"]: report for report in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_compiles_within_vmem_and_without_large_temporaries(chip, case):
    report = compiled(chip)[case]
    kernels, temporaries = CASES[case]
    assert report["kernels"] == kernels == len(report["vmem"])
    assert max(report["vmem"]) <= VMEM[chip]  # and the compiler was given no more than that
    assert report["temporaries"] <= temporaries * MIB
    if case in SEQUENCES:  # no buffer of the program holds the prefix once a sequence
        assert report["largest"] < SEQUENCES[case] * PREFIX


@pytest.mark.parametrize("chip", ["v4", "v5p", "tpu7x"])
def test_compiles_for_smaller_vmem(chip):
    reports = compiled(chip, "prefill", "decode 8", "learner 300")
    assert len(reports) == 6
    assert all(max(report["vmem"]) <= VMEM[chip] for report in reports.values())
