"""The TPU shared-prefix kernel, interpreted, against a softmax in NumPy: values, fetches, buffers, races, lowering."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend
from ar1_kernels.tpu import shared
from ar1_kernels.tpu.blocks import Blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.recorder import Recorder

ROUND = 2.0**-8  # the most by which a rounding to bfloat16 changes a number, relatively


def make(seed, batch, kv_heads, samples, n, group, prefix, suffix, own, width, dtype="float32"):
    """Arguments of the kernel, with NaN behind every length; suffix, own: lengths of the arrays, 0 for none."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    lengths = lambda size, *shape: rng.choice([0, 1, size, rng.integers(0, size + 1)], shape).astype(np.int32)
    behind = lambda x, length: jnp.where(
        (np.arange(x.shape[-2]) >= length[..., None, None])[..., None], jnp.nan, x
    ).astype(x.dtype)
    q = normal(batch, kv_heads, samples, n * group, width)
    prefix_length = lengths(prefix, batch)
    prefix_k, prefix_v = (behind(normal(batch, kv_heads, prefix, width), prefix_length) for _ in range(2))
    suffix_k = suffix_v = suffix_length = own_k = own_v = None
    if suffix:
        suffix_length = lengths(suffix, batch, samples)
        shape = (batch, samples, kv_heads, suffix, width)
        suffix_k, suffix_v = (behind(normal(*shape), suffix_length) for _ in range(2))
    if own:
        own_k, own_v = (normal(batch, samples, kv_heads, n, width) for _ in range(2))
    return q, prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, own_k, own_v


def reference(args, causal, scale):
    """Sequence after sequence, on its live keys alone -> out, log-sum-exp, sum of weight · |value|."""
    q, prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, own_k, own_v = (
        None if x is None else np.asarray(x, np.float64 if x.dtype != np.int32 else None) for x in args
    )
    out, lse, size = np.zeros(q.shape), np.full(q.shape[:-1], -1e30), np.zeros(q.shape)
    for b, j, s, c in np.ndindex(*q.shape[:-1]):
        keys, values = [prefix_k[b, j, : prefix_length[b]]], [prefix_v[b, j, : prefix_length[b]]]
        if suffix_k is not None:
            keys.append(suffix_k[b, s, j, : suffix_length[b, s]])
            values.append(suffix_v[b, s, j, : suffix_length[b, s]])
        if own_k is not None:
            n = own_k.shape[3]
            seen = c // (q.shape[3] // n) + 1 if causal else n
            keys.append(own_k[b, s, j, :seen])
            values.append(own_v[b, s, j, :seen])
        keys, values = np.concatenate(keys), np.concatenate(values)
        if len(keys):
            scores = keys @ q[b, j, s, c] * scale
            weights = np.exp(scores - scores.max())
            lse[b, j, s, c] = scores.max() + np.log(weights.sum())
            weights /= weights.sum()
            out[b, j, s, c], size[b, j, s, c] = weights @ values, weights @ abs(values)
    return out, lse, size


def check(args, causal, sizes, interpret=True):
    scale = args[0].shape[-1] ** -0.5
    out, lse = shared.forward(*args, causal=causal, scale=scale, blocks=sizes, interpret=interpret)
    assert out.dtype == args[0].dtype and lse.dtype == jnp.float32
    want, want_lse, size = reference(args, causal, scale)
    rounding = ROUND if out.dtype == jnp.bfloat16 else 0.0
    # The weights are rounded, and the result; 2e-6: sums in float32.
    bound = rounding * (size + abs(want)) + 2e-6 * (1 + size)
    worst = np.max(abs(np.asarray(out, np.float64) - want) / bound)
    assert worst <= 1, f"out is off by {worst:.2f} of its bound"  # also where it is NaN
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6, atol=2e-6)


CASES = {
    # several sequences a group and a group that is not full; two prefix and two suffix blocks
    "decode": ((2, 2, 5, 1, 4, 200, 140, 1, 72), True, Blocks(32, 128, suffix=128, together=384)),
    # a sequence a group, its rows in two chunks; own keys seen by all queries
    "expert": ((1, 2, 3, 11, 2, 140, 40, 1, 16, "bfloat16"), False, Blocks(16, 128, suffix=128, together=128)),
    # own keys in two causal blocks, of which the first chunks see one; rows in two parts; a prefix that ends three keys
    # before its last block does
    "learner": (
        (1, 1, 2, 150, 1, 253, 0, 1, 128), True,
        Blocks(48, 128, suffix=128, together=128, resident=192),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    shape, causal, sizes = CASES[case]
    args = make(6, *shape)
    if case == "learner":
        assert args[3] == 253  # the whole prefix
    check(args, causal, sizes)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_values_of_any_shape(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    width = data.draw(st.sampled_from([16, 64, 72, 128]))
    dtype = data.draw(st.sampled_from(["float32", "bfloat16"]))
    n = data.draw(st.sampled_from([1, 2, 17, 140]))
    sizes = Blocks(16 * draw(1, 3), 128 * draw(1, 2), suffix=128, together=128 * draw(1, 6))
    suffix = data.draw(st.sampled_from([0, 1, 100, 129, 260]))
    samples, group = draw(1, 7 if n < 100 else 2), draw(1, 4)
    args = make(draw(0, 99), draw(1, 2), draw(1, 2), samples, n, group, draw(1, 300), suffix,
                draw(0, 1), width, dtype)  # fmt: skip
    check(args, bool(draw(0, 1)), sizes)


@pytest.mark.parametrize("n, group, causal", [(1, 4, True), (6, 2, False), (30, 4, True)])
@pytest.mark.parametrize("samples", [1, 3, 16])
def test_the_prefix_is_fetched_once_for_all_sequences(samples, n, group, causal, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(shared.pl, "pallas_call", recorder)
    q, k, v, _, sk, sv, _, own_k, own_v = make(0, 2, 2, samples, n, group, 600, 300, True, 16)
    suffix_length = np.zeros((2, samples), np.int32)
    suffix_length[1] = 130  # scene 0 has no suffix yet
    args = (q, k, v, np.array([129, 600]), sk, sv, suffix_length, own_k, own_v)
    sizes = Blocks(32, 128, suffix=128, together=512)
    shared.forward(*args, causal=causal, scale=1.0, blocks=sizes)
    live = [range(2), range(5)]  # of 128 keys; blocks beyond the length are not fetched
    want = [(b, j, s, 0) for b in range(2) for j in range(2) for s in live[b]]
    assert recorder.fetches(k) == recorder.fetches(v) == want
    together = -(-samples // -(-samples // max(1, min(32 // (n * group), 4))))  # sequences a group
    groups = -(-samples // together)
    dead = [(0, 0, j, 0, 0) for j in range(2)]  # something lies there, but it does not change
    want = dead + [(1, g, j, s, 0) for j in range(2) for g in range(groups) for s in range(2)]
    assert recorder.fetches(sk) == recorder.fetches(sv) == want
    assert recorder.fetches(own_k) == [
        (b, g, j, 0, 0) for b in range(2) for j in range(2) for g in range(groups)
    ]


def test_no_buffer_holds_the_prefix_once_a_sequence():
    samples, size, width = 16, 512, 64
    args = make(0, 1, 1, samples, 1, 1, size, 0, True, width)
    ours = lambda *args: shared.forward(*args, causal=True, scale=1.0, interpret=True)
    copied = lambda q, k, *_: jnp.cumsum(q[0, 0] + k[0, 0], axis=1)  # the probe: it does hold [K, S, E]

    def largest(function):
        text = jax.jit(function).lower(*args).compile().as_text()
        sizes = re.findall(r"f32\[([\d,]+)\]", text)
        return max(int(np.prod([int(d) for d in dims.split(",")])) for dims in sizes)

    assert largest(ours) < samples * size * width
    assert largest(copied) >= samples * size * width


def test_no_race_and_no_uninitialised_value():
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator

    args = make(2, 1, 1, 3, 1, 4, 140, 20, 1, 24)
    sizes = Blocks(16, 128, suffix=128, together=256)
    params = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise")
    try:
        check(args, True, sizes, params)  # from jax 0.12 on a race is an error here
        races = getattr(simulator, "races", None)
        assert races is None or not races.races_found
    finally:
        pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.parametrize(
    "kind, n, suffix", [("TPU v4", 180, 0), ("TPU v5 lite", 1, 256), ("TPU v6 lite", 64, 256)]
)
def test_lowers_to_one_kernel_of_the_chip(kind, n, suffix):
    shape = lambda *s, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(s, dtype)
    prefix, own = shape(2, 2, 3000, 128), shape(2, 16, 2, n, 128)
    more = shape(2, 16, 2, suffix, 128) if suffix else None
    length = shape(2, 16, dtype=jnp.int32) if suffix else None
    args = (
        shape(2, 2, 16, n * 4, 128),
        prefix,
        prefix,
        shape(2, dtype=jnp.int32),
        more,
        more,
        length,
        own,
        own,
    )
    with backend.tracing_for("tpu", kind):
        traced = jax.jit(lambda *args: shared.forward(*args, causal=n != 64, scale=0.1)).trace(*args)
        assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 1
