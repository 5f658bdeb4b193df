"""The attention kernels through NVIDIA's own assembler, without a GPU: registers, spills, products, buffers.

AR1_AHEAD_PYTHON names an interpreter with jax and the CUDA plugin; see ahead_gpu.py.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ahead_gpu.py")
PYTHON = os.environ.get("AR1_AHEAD_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="AR1_AHEAD_PYTHON names no interpreter with jax and the CUDA plugin"
    ),
]
MIB = 2**20
BACKWARD = {"flash_backward_rows", "flash_backward_keys"}
# Most of temporaries in MiB. Whole scores would be 1,152 (prefill) and 4,050 (packed images, all heads). Where the head
# width is 72 or the rows are not whole blocks, arrays are copied once into such as TMA and wgmma take.
FLAT = {
    "prefill": 1, "vision": 130, "packed": 130, "learner_prefix": 60, "prefill_backward": 1, "vision_backward": 190,
    "packed_backward": 190, "learner_prefix_backward": 95,
}  # fmt: skip
SEQUENCES = {"decode_1": 16, "decode_8": 128, "expert": 16, "learner_180": 12, "learner_300": 12}
PREFIX = 8 * 3000 * 128  # elements of a scene's keys


chips = pytest.mark.parametrize("chip", ["h200", "b200"])
UNIT = {"h200": "wgmma", "b200": "tcgen05"}


@functools.cache
def compiled(chip, *cases) -> dict:
    run = subprocess.run([PYTHON, SCRIPT, chip, *cases], capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-3000:]
    return {report["case"]: report for report in map(json.loads, run.stdout.splitlines())}


@chips
@pytest.mark.parametrize("case", [*FLAT, *SEQUENCES])
def test_every_kernel_multiplies_with_the_matrix_unit_and_spills_nothing(chip, case):
    kernels = compiled(chip)[case]["kernels"]
    expected = (
        {"shared_prefix"} if case in SEQUENCES else BACKWARD if "backward" in case else {"flash_forward"}
    )
    assert set(kernels) == expected
    for said in kernels.values():
        assert said["spilled"] == 0 and said["registers"] <= 255 and set(said["products"]) == {UNIT[chip]}, (
            kernels
        )


def test_of_one_case_each_b300_can_be_compiled_for_too():
    cases = {"prefill", "prefill_backward", "decode_1"}
    found = compiled("b300", *cases)
    assert set(found) == cases
    for kernels in (case["kernels"] for case in found.values()):
        assert all(said["spilled"] == 0 and set(said["products"]) == {"tcgen05"} for said in kernels.values())


@chips
@pytest.mark.parametrize("case", FLAT)
def test_no_scores_in_device_memory(chip, case):
    assert compiled(chip)[case]["temporaries"] <= FLAT[case] * MIB


@chips
@pytest.mark.parametrize("case", SEQUENCES)
def test_no_buffer_holds_the_prefix_once_a_sequence(chip, case):
    assert compiled(chip)[case]["largest"] < SEQUENCES[case] * PREFIX
