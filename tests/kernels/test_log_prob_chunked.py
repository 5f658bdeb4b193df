"""The glue of linear_log_prob's kernels by itself, with the engine in XLA: chunks, their joins, both gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import chunked, linear_log_prob

from tests.kernels.log_prob_cases import by_engine, check, problem, values_and_gradients


@pytest.mark.parametrize(
    "chunk",
    [
        397,  # one
        128,  # the last one moved back over most of its neighbour
        199,  # by one id
        1,
    ],
)
def test_chunks_join_to_the_whole_softmax(chunk):
    p = problem(13, 24, 397 if chunk > 1 else 17)
    check(values_and_gradients(by_engine(chunked.XLA, chunk))(p), p)


def test_an_engine_that_reads_the_whole_weight_gives_the_same():
    p = problem(13, 24, 397)
    check(values_and_gradients(by_engine(chunked.XLA._replace(whole=True), 128))(p), p)


def test_gradients_of_bfloat16_are_summed_in_float32_and_come_in_bfloat16():
    p = problem(13, 24, 397, "bfloat16")
    got = values_and_gradients(by_engine(chunked.XLA, 64))(p)
    assert [x.dtype.name for x in got] == ["float32", "float32", "bfloat16", "bfloat16"]
    check(got, p, atol=2e-2)


def at_once(p, hidden, weight):
    rest = {"temperature": p.temperature, "allowed": p.allowed, "entropy": True, "backend": "xla"}
    return linear_log_prob(hidden, weight, p.labels, **rest)


@pytest.mark.parametrize("run", [by_engine(chunked.XLA, 8), at_once])
def test_the_temperature_gets_no_gradient(run):
    p = problem(4, 8, 16)
    loss = lambda t: run(p._replace(temperature=t), p.hidden, p.weight)[1].sum()
    np.testing.assert_array_equal(jax.grad(loss)(jnp.asarray(p.temperature)), 0)


def test_chunks_of_the_release_fit_their_bytes_and_waste_little():
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.bfloat16)
    size = chunked.chunk_size(shape(3200, 4096), shape(4096, 155_697))
    chunks = -(-155_697 // size)
    assert size % 256 == 0 and size * 4096 * 2 <= 2**27 and chunks * size < 1.02 * 155_697
    assert chunked.chunk_size(shape(7, 16), shape(16, 397)) == 397


def test_no_buffer_holds_all_logits_or_a_second_weight():
    rows, width, vocabulary, chunk = 160, 32, 1600, 256
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, width), (width, vocabulary))]

    def program(run):
        p = problem(rows, 1, 1600)
        step = lambda h, w: values_and_gradients(run)(p._replace(hidden=h, weight=w))
        text = jax.jit(step).lower(*shapes).compile().as_text()
        return {tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)}

    sizes = program(by_engine(chunked.XLA, chunk))
    assert max(map(np.prod, sizes)) == width * vocabulary  # the weight and its gradient
    assert (rows, chunk) in sizes and (rows, vocabulary) not in sizes
    from tests.kernels.log_prob_cases import dense

    assert (rows, vocabulary) in program(dense)  # the probe: a way that does hold them


def test_a_weight_that_is_not_trained_costs_no_gradient():
    p = problem(64, 32, 4096)

    def room(argnums):
        loss = lambda h, w: by_engine(chunked.XLA, 512)(p, h, w)[0].sum()
        program = jax.jit(jax.grad(loss, argnums)).lower(p.hidden, p.weight).compile()
        return program.memory_analysis().temp_size_in_bytes + program.memory_analysis().output_size_in_bytes

    assert room((0, 1)) - room(0) >= p.weight.nbytes


@pytest.mark.parametrize("window", [(0, 40), (5, 40), (0, 33), (16, 16)])
def test_reach_is_what_live_says_of_every_tile(window):
    rng = np.random.default_rng(0)
    allowed = np.concatenate([[[0, 40], [0, 16], [40, 0], [33, 8], [8, 8]], rng.integers(0, 41, (35, 2))])
    for block in (1, 3):
        some, every = chunked.reach(jnp.asarray(allowed), *window, 5, 8, block)
        live = np.asarray(chunked.live(jnp.arange(40), jnp.asarray(allowed), *window)).reshape(-1, 5, 8)
        for i in range(len(some)):
            rows = live[i * block : (i + 1) * block]
            np.testing.assert_array_equal(some[i], rows.any((0, 2)))
            np.testing.assert_array_equal(every[i], rows.all((0, 2)))
