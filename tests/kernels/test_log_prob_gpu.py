"""The kernels of linear_log_prob for Hopper and Blackwell: values, gradients, races, lowering, refusals.
test_ahead_log_prob.py compiles them for chips."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend, chunked
from ar1_kernels.gpu import log_prob as kernels
from ar1_kernels.gpu.products import UNITS

from tests.kernels import gpu_cases
from tests.kernels.log_prob_cases import by_engine, check_bfloat16, problem, values_and_gradients

# Few blocks of threads: the simulator compiles every warpgroup of each for itself.
SMALL = kernels.Blocks(rows=64, ids=128, depth=64, stages=2, launched=1)


def engine(interpret, unit="wgmma", **blocks):
    size = dataclasses.replace(SMALL, rows=UNITS[unit].rows, unit=unit, **blocks) if interpret else None
    bind = lambda f: functools.partial(f, blocks=size, interpret=interpret)
    return chunked.Engine(bind(kernels.stats), bind(kernels.cotangent))


def in_a_process_of_its_own(name, unit="wgmma"):
    """Calls function `name` of this file with `unit` there: a wrong barrier makes the simulator wait for ever, which
    fails here. Its threads wait inside XLA's, of which two cores have too few."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root, root / "kernels")))
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "NPROC": "16", "PJRT_NPROC": "16"}
    call = f"from tests.kernels import test_log_prob_gpu as t; t.{name}({unit!r})"
    done = subprocess.run(
        [sys.executable, "-c", call], env=environment, cwd=root, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


needs_tcgen05 = pytest.mark.skipif(not gpu_cases.simulates_tcgen05(), reason=gpu_cases.NO_TCGEN05)
units = pytest.mark.parametrize("unit", ["wgmma", pytest.param("tcgen05", marks=needs_tcgen05)])


def values_and_gradients_are_those_of_the_whole_softmax(unit):
    cases = [
        (70, 96, 397, None, {}),  # nothing fills its last tile: rows, width, vocabulary
        (
            70,
            200,
            300,
            256,
            {"launched": 2, "consumers": 1, "stages": 3},
        ),  # the second chunk moved back to 44
    ]
    for rows, width, vocabulary, chunk, blocks in cases:
        p = problem(rows, width, vocabulary, "bfloat16")
        check_bfloat16(values_and_gradients(by_engine(engine(True, unit, **blocks), chunk))(p), p, chunk)


@pytest.mark.slow
@units
def test_values_and_gradients(unit):
    in_a_process_of_its_own("values_and_gradients_are_those_of_the_whole_softmax", unit)


@units
def test_a_walk(unit):
    in_a_process_of_its_own("a_walk_over_tiles_seen_and_unseen_without_races", unit)


def a_walk_over_tiles_seen_and_unseen_without_races(unit):
    """One block of threads walks over six tiles of a chunk in the middle of a vocabulary, of which rows see the third
    and the fifth; rows, width and ids end inside a tile. Row 1's interval is the complement of one, row 2's label lies
    outside."""
    p = problem(3, 96, 700, "bfloat16")
    allowed = np.array([[1130, 1200], [1590, 1310], [1520, 1600]], np.int32)
    rest = jnp.array([1130, 1309, 10]), jnp.asarray(1 / p.temperature), jnp.asarray(allowed)
    ids = 1000, 1260, 1635  # first, start, stop: live are [1260, 1310) and [1590, 1635) of row 1
    ours = engine(gpu_cases.simulator(), unit)
    got = ours.stats(p.hidden, p.weight, *rest, *ids)
    want = chunked.XLA.stats(p.hidden, p.weight, *rest, *ids)
    for n, rows in enumerate(
        ([1, 2], [0, 1, 2], [1, 2])
    ):  # row 0 counts no id here: its mean is anything finite
        np.testing.assert_allclose(got[n][jnp.array(rows)], want[n][jnp.array(rows)], rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(got)) and got.lse[0] == got.label[0] == chunked.MASKED
    lse = got.lse.at[0].set(3.0)  # row 0 counts ids of another chunk
    whole = lse, got.mean.at[0].set(1.0), jnp.asarray(p.g), jnp.asarray(p.e), *ids
    dz = ours.cotangent(p.hidden, p.weight, *rest, *whole)
    want = chunked.XLA.cotangent(p.hidden, p.weight, *rest, *whole)
    np.testing.assert_allclose(dz.astype("float32"), want.astype("float32"), atol=1e-5, rtol=1e-2)
    assert not np.any(dz[0]) and not np.any(dz[:, :260]) and np.all(dz[1, 260:310])
    assert not gpu_cases.races()


@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200"])
def test_the_release_lowers_to_two_kernels(kind):
    shape = lambda *s, d=jnp.float32: jax.ShapeDtypeStruct(s, d)
    p = problem(3, 1, 7)._replace(
        hidden=shape(3200, 4096, d=jnp.bfloat16), weight=shape(4096, 155_697, d=jnp.bfloat16),
        labels=shape(3200, d=jnp.int32), temperature=shape(3200), allowed=shape(3200, 2, d=jnp.int32),
        g=shape(3200), e=shape(3200),
    )  # fmt: skip
    program = values_and_gradients(by_engine(engine(False)))
    with backend.tracing_for("gpu", kind):
        text = program.trace(p).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@mosaic_gpu_v2(") == 2


def test_refusals_say_why():
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA GH200 480GB", ""):
        assert kernels.refusal(jnp.bfloat16, 4096, kind) is None
    assert "float32" in kernels.refusal(jnp.float32, 4096, "NVIDIA H200")
    assert kernels.refusal(jnp.bfloat16, 4096, "NVIDIA B200") is None
    assert "A100" in kernels.refusal(jnp.bfloat16, 4096, "NVIDIA A100-SXM4-80GB")
    p = problem(3, 8, 16)
    with pytest.raises(ValueError, match="float32"):
        by_engine(engine(True))(p, p.hidden, p.weight)
    with pytest.raises(ValueError, match="weight float32"):
        by_engine(engine(True))(p, p.hidden.astype(jnp.bfloat16), p.weight)


@pytest.mark.parametrize(
    "name, size", [("rows", 96), ("ids", 64), ("depth", 32), ("stages", 0), ("consumers", 5), ("unit", "mma")]
)
def test_impossible_blocks_are_refused(name, size):
    with pytest.raises(ValueError, match=f"{name}={size!r}"):
        kernels.Blocks(**{name: size})


@pytest.mark.parametrize("sizes", [{"rows": 256}, {"ids": 1024}, {"ids": 384, "consumers": 1}])
def test_what_tensor_memory_cannot_hold_is_refused(sizes):
    with pytest.raises(ValueError, match="tensor memory"):
        kernels.Blocks(unit="tcgen05", **sizes)
