"""The TPU kernels of linear_log_prob: values and gradients in the interpreter, races and rubbish behind the ends of
arrays in the simulator, lowering, refusals. test_ahead_tpu.py compiles them for chips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import chunked, linear_log_prob
from ar1_kernels.backend import tracing_for
from ar1_kernels.tpu import log_prob as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.log_prob_cases import by_engine, check, check_bfloat16, problem, values_and_gradients

SMALL = kernels.Blocks(rows=32, ids=256, strip=16, part=128)


def engine(interpret, blocks=SMALL, whole=True):
    bind = lambda f: functools.partial(f, blocks=blocks, interpret=interpret)
    return chunked.Engine(bind(kernels.stats), bind(kernels.cotangent), whole)


def run(p, interpret=True, chunk=None, **how):
    return values_and_gradients(by_engine(engine(interpret, **how), chunk))(p)


@pytest.mark.parametrize(
    "rows, width, vocabulary, dtype, chunk",
    [
        (1, 16, 397, "float32", None),  # less than a block of everything
        (7, 128, 397, "float32", 256),  # read as [V, D]; the second chunk moved back to 141
        (130, 96, 640, "float32", 384),  # several row blocks, the last one of few rows
        (66, 128, 397, "bfloat16", None),
    ],
)
def test_values_and_gradients_are_those_of_the_whole_softmax(rows, width, vocabulary, dtype, chunk):
    p = problem(rows, width, vocabulary, dtype)
    (check_bfloat16 if dtype == "bfloat16" else check)(run(p, chunk=chunk), p)


def test_chunks_give_what_the_whole_weight_gives():
    p = problem(9, 128, 397)
    check(run(p, chunk=256, whole=False), p)


VOCABULARY = 600
IDS = st.integers(0, VOCABULARY)
PROBLEM = problem(9, 16, VOCABULARY)
COMPILED = values_and_gradients(by_engine(engine(True), 512))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    st.lists(st.tuples(IDS, IDS), min_size=9, max_size=9),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=9, max_size=9),
    st.floats(0.7, 3),
)
def test_any_intervals_labels_and_temperatures(allowed, labels, temperature):
    allowed = np.array([(a, b) if a != b else (0, VOCABULARY) for a, b in allowed], np.int32)
    p = PROBLEM._replace(
        allowed=allowed,
        labels=np.array(labels, np.int32),
        temperature=PROBLEM.temperature * np.float32(temperature),
    )
    check(COMPILED(p), p)


def test_no_races_and_no_use_of_what_lies_behind_an_end():
    """Rows, columns and outputs end inside a block; the simulator's memory there is NaN, and fetches are on their way
    while the block before is computed."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator

    p = problem(37, 128, 397)
    simulated = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="uninitialized")
    check(run(p, simulated, chunk=397), p)
    assert not simulator.races.races_found


def fetches(sees):
    """Tiles copied into VMEM over the grid: a step copies where its tile is not the one that lies there."""
    order = np.asarray(kernels._fetched(jnp.asarray(sees))).reshape(-1)
    return [int(order[0])] + [int(b) for a, b in zip(order, order[1:]) if a != b]


def test_tiles_that_no_row_sees_are_not_fetched():
    dead, mixed, whole = kernels.DEAD, kernels.MIXED, kernels.WHOLE
    assert fetches([[dead, mixed, dead, whole, dead], [dead, dead, dead, dead, mixed]]) == [1, 3, 4]
    assert fetches([[dead, dead], [dead, dead]]) == [0]


def test_an_interval_of_few_ids_leaves_the_other_tiles_out():
    seen = []

    def spy(function, *args, **kwargs):
        call = pl_call(function, *args, **kwargs)
        return lambda *operands: (seen.append(operands[0]), call(*operands))[1]

    pl_call = kernels.pl.pallas_call
    p = problem(40, 16, 1024)._replace(allowed=np.array([[300, 500]] * 40, np.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.pl, "pallas_call", spy)
        engine(True).stats(
            p.hidden,
            p.weight,
            jnp.asarray(p.labels),
            jnp.asarray(p.temperature),
            jnp.asarray(p.allowed),
            0,
            0,
            1024,
        )
    np.testing.assert_array_equal(seen[0], [[0, 2, 0, 0]] * 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_release_lowers_to_two_kernels(dtype):
    shapes = problem(3, 1, 155_697)._replace(
        hidden=jax.ShapeDtypeStruct((3200, 4096), dtype), weight=jax.ShapeDtypeStruct((4096, 155_697), dtype)
    )
    rows = lambda *s, d=jnp.float32: jax.ShapeDtypeStruct((3200, *s), d)
    shapes = shapes._replace(
        labels=rows(d=jnp.int32), temperature=rows(), allowed=rows(2, d=jnp.int32), g=rows(), e=rows()
    )
    program = values_and_gradients(by_engine(engine(False, blocks=None)))
    text = program.trace(shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2


@pytest.mark.parametrize("width", [16, 128, 896, 2048, 4096, 5120, 8192])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_blocks_of_any_width_keep_to_their_bytes(width, dtype):
    blocks = kernels.blocks_for(width, dtype)
    assert max(blocks.rows, blocks.ids) * width * jnp.dtype(dtype).itemsize <= kernels.BLOCK_BYTES
    if width == 4096 and dtype == jnp.bfloat16:
        assert blocks == kernels.Blocks(rows=1024, ids=1024, part=512, strip=256)


@pytest.mark.parametrize("name, size", [("rows", 8), ("ids", 384), ("part", 64), ("strip", 0)])
def test_impossible_blocks_are_refused(name, size):
    with pytest.raises(ValueError, match=f"{name}={size}"):
        kernels.Blocks(**{"rows": 32, "ids": 512, "part": 256, "strip": 16} | {name: size})


def test_refusals_say_why():
    assert kernels.refusal(jnp.bfloat16, 4096, "TPU v6 lite") is None
    assert kernels.refusal(jnp.float32, 4096, "") is None
    assert "float16" in kernels.refusal(jnp.float16, 4096, "")
    assert "VMEM" in kernels.refusal(jnp.bfloat16, 4096, "TPU v4")
    assert "65536" in kernels.refusal(jnp.bfloat16, 65536, "")


def test_the_operation_runs_by_its_kernels_where_they_are_chosen():
    p = problem(5, 16, 300)
    rest = {"temperature": p.temperature, "allowed": p.allowed, "entropy": True}
    with tracing_for("tpu", "TPU v5 lite", interpret=True):
        run = lambda backend: linear_log_prob(
            p.hidden, p.weight, p.labels, backend=backend, blocks=SMALL, **rest
        )
        assert "pallas_call" in str(jax.make_jaxpr(lambda: run("auto"))())
        for a, b in zip(run("pallas_tpu"), run("xla")):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="weight bfloat16"):
            linear_log_prob(p.hidden, p.weight.astype("bfloat16"), p.labels, backend="pallas_tpu")
