"""linear_log_prob at the shape of the release, compiled for chips that are not here: room, registers, instructions."""

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ahead_log_prob.py")
PYTHON = os.environ.get("AR1_AHEAD_PYTHON")
# Products of a step 64 deep, 16 at a time; wgmma takes two halves of the rows.
GPU = {"h200": {"wgmma": 8}, "b200": {"tcgen05": 4}}
GRADIENTS = (3200 + 155_697) * 4096  # elements
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason="AR1_AHEAD_PYTHON names no interpreter with libtpu and the CUDA plugin"
    ),
]


def compiled(chip, dtype):
    done = subprocess.run([PYTHON, SCRIPT, chip, dtype], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case["case"]: case for case in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(
    "chip, dtype",
    [
        ("v5e", "bfloat16"),
        ("v6e", "bfloat16"),
        ("v6e", "float32"),
        ("h200", "bfloat16"),
        ("b200", "bfloat16"),
    ],
)
def test_temporaries_of_the_release_stay_under_a_gigabyte(chip, dtype):
    cases = compiled(chip, dtype)
    size = 2 if dtype == "bfloat16" else 4
    assert cases["both"]["results"] < GRADIENTS * size * 1.01 + 2**20
    assert cases["both"]["temporaries"] < 600e6, cases
    if chip in GPU:
        assert cases["forward"]["temporaries"] < 300e6, (
            cases
        )  # a chunk of the weight, whose rows TMA can read
        kernels = cases["forward"]["kernels"] | cases["both"]["kernels"]  # a kernel of both is assembled once
        assert set(kernels) == {"log_prob_stats", "log_prob_cotangent"}
        for name, said in kernels.items():
            assert said["spilled"] == 0 and said["registers"] <= 255 and said["products"] == GPU[chip], (
                name,
                said,
            )
    else:
        assert cases["forward"]["temporaries"] < 30e6, cases  # the weight is read where it lies
        assert cases["both"]["code"] < 10e6, cases
