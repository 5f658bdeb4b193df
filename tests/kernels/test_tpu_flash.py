"""The TPU attention kernels, interpreted, against NumPy in float64: values, gradients, fetches, races, lowering."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend
from ar1_kernels.packed import Seen
from ar1_kernels.tpu import blocks, flash
from ar1_kernels.tpu.blocks import Blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.recorder import Recorder

SMALL = Blocks(16, 128, suffix=128)
ROUND = 2.0**-8  # the most by which a rounding to bfloat16 changes a number, relatively


def reference(q, k, v, seen, lse, delta, do, scale):
    """What the kernels promise, and for each result the sum of absolute values that its rounding scales with."""
    q, k, v, do, lse, delta = (np.asarray(x, np.float64) for x in (q, k, v, do, lse, delta))
    live = np.arange(k.shape[2]) < seen.limit[..., None]
    if seen.row_ids is not None:
        live &= seen.row_ids[..., None] == seen.key_ids[:, None]
    live = np.broadcast_to(live[:, None], q.shape[:3] + k.shape[2:3])
    scores = np.einsum("bjxe,bjse->bjxs", q, k) * scale
    peak = np.max(scores, axis=-1, where=live, initial=-1e30)
    mass = np.sum(np.exp(scores - peak[..., None], where=live, out=np.zeros_like(scores)), axis=-1)
    some = mass > 0
    own_lse = np.where(some, peak + np.log(np.where(some, mass, 1)), -1e30)
    p = np.exp(scores - own_lse[..., None], where=live, out=np.zeros_like(scores))
    pull = lambda p, x: np.einsum("bjxs,bjse->bjxe", p, x)
    push = lambda p, x: np.einsum("bjxs,bjxe->bjse", p, x)
    joined = np.exp(scores - lse[..., None], where=live, out=np.zeros_like(scores))
    ds = joined * (np.einsum("bjxe,bjse->bjxs", do, v) - delta[..., None]) * scale
    values = {"out": pull(p, v), "lse": own_lse, "dq": pull(ds, k), "dk": push(ds, q), "dv": push(joined, do)}
    sizes = {
        "out": pull(p, abs(v)), "lse": abs(own_lse), "dq": pull(abs(ds), abs(k)),
        "dk": push(abs(ds), abs(q)), "dv": push(joined, abs(do)),
    }  # fmt: skip
    return values, sizes


def make(seed, batch, kv_heads, rows, keys, width, limit, ids=False, dtype="float32"):
    """Inputs of forward and backward; the log-sum-exp of the backward pass is one over more keys than these."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    q, do = normal(batch, kv_heads, rows, width), normal(batch, kv_heads, rows, width)
    k, v = normal(batch, kv_heads, keys, width), normal(batch, kv_heads, keys, width)
    limit = np.broadcast_to(np.asarray(limit, np.int32), (batch, rows)).copy()
    seen = Seen(limit)
    if ids:  # not contiguous: an id comes back later
        seen = Seen(limit, *(rng.integers(0, 3, (batch, n)).astype(np.int32) * 7 for n in (rows, keys)))
    delta = rng.normal(size=(batch, kv_heads, rows)).astype("float32")
    zero = np.zeros_like(delta)
    lse = reference(q, k, v, seen, zero, zero, do, width**-0.5)[0]["lse"]
    lse = (np.where(lse > -1e29, lse, 0) + rng.uniform(0, 1, lse.shape)).astype("float32")
    return q, k, v, seen, lse, delta, do


def with_nan(x, limit):
    """Keys or values with NaN behind the last that any row of a scene sees."""
    behind = np.arange(x.shape[2]) >= np.asarray(limit).max(axis=1)[:, None]
    return jnp.where(behind[:, None, :, None], jnp.nan, x).astype(x.dtype)


def run(q, k, v, seen, lse, delta, do, sizes=SMALL, interpret=True):
    scale = q.shape[-1] ** -0.5
    k, v = with_nan(k, seen.limit), with_nan(v, seen.limit)
    given = {"scale": scale, "blocks": sizes, "interpret": interpret}
    out, own_lse = flash.forward(q, k, v, seen, out_dtype=q.dtype, **given)
    dq, dk, dv = flash.backward(q, k, v, seen, lse, delta, do, **given)
    assert out.dtype == dk.dtype == dv.dtype == q.dtype and own_lse.dtype == dq.dtype == jnp.float32
    return {"out": out, "lse": own_lse, "dq": dq, "dk": dk, "dv": dv}


def check(args, sizes=SMALL, interpret=True):
    got = run(*args, sizes=sizes, interpret=interpret)
    want, magnitude = reference(*args, args[0].shape[-1] ** -0.5)
    for name, x in got.items():
        rounding = ROUND if args[0].dtype == jnp.bfloat16 and name != "lse" else 0.0
        x, exact = np.asarray(x, np.float64), want[name]
        # A factor of the last product is rounded, and the result; 2e-6: sums in float32.
        bound = rounding * (magnitude[name] + abs(exact)) + 2e-6 * (1 + magnitude[name])
        worst = np.max(abs(x - exact) / bound)
        assert worst <= 1, f"{name} is off by {worst:.2f} of its bound"  # also where x is NaN


def causal(rows, keys, group=1):
    """Limits of `rows` rows, `group` a query, the last query seeing all keys."""
    return np.clip(np.arange(rows) // group + 1 + keys - rows // group, 0, keys)


CASES = {
    # GQA rows under causality, ragged rows and keys, the vision tower's head width; rows without any key (0 and MASKED)
    # beside rows that see all of a block
    "causal": lambda: make(0, 2, 2, 45, 300, 72, [causal(45, 300, 3), np.repeat([0, 300], [20, 25])]),
    # rows in two parts, ids that come back, every kind of limit, chunks that see all of a block
    "ids": lambda: make(1, 2, 1, 70, 140, 16, [np.arange(70) * 2, np.full(70, 140)], ids=True),
    # a scene without any key, with one, with all, with two of a second block
    "lengths": lambda: make(2, 4, 1, 33, 257, 128, [[0], [1], [257], [130]], dtype="bfloat16"),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    check(CASES[case](), dataclasses.replace(SMALL, resident=32) if case == "ids" else SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "width, dtype", [(16, "float32"), (64, "bfloat16"), (72, "bfloat16"), (128, "float32")]
)
@pytest.mark.parametrize("shape", [(1, 1), (7, 128), (17, 129), (64, 300), (100, 513)])
def test_values_and_gradients_over_shapes(shape, width, dtype):
    rows, keys = shape
    limits = [causal(rows, keys), np.full(rows, keys), np.zeros(rows), np.ones(rows)]
    check(make(rows, 4, 2, rows, keys, width, limits, dtype=dtype), Blocks(48, 256, suffix=128))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_values_and_gradients_of_any_shape(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    batch, rows, keys = draw(1, 3), draw(1, 90), draw(1, 400)
    limit = np.array([[draw(0, keys + 5)] * rows if draw(0, 1) else [draw(0, keys) for _ in range(rows)]
                      for _ in range(batch)])  # fmt: skip
    sizes = Blocks(16 * draw(1, 3), 128 * draw(1, 2), suffix=128)
    sizes = dataclasses.replace(sizes, resident=sizes.rows * draw(1, 4))
    width = data.draw(st.sampled_from([16, 64, 72, 128]))
    dtype = data.draw(st.sampled_from(["float32", "bfloat16"]))
    check(make(draw(0, 99), batch, draw(1, 2), rows, keys, width, limit, bool(draw(0, 1)), dtype), sizes)


@pytest.mark.parametrize("rows, backward", [(16, False), (400, False), (400, True)])
@pytest.mark.parametrize("case", ["full", "causal", "lengths", "segments"])
def test_a_live_block_of_keys_is_fetched_once_for_all_rows_and_a_dead_one_never(
    case, rows, backward, monkeypatch
):
    batch, kv_heads, keys = 2, 2, 700
    limit = np.full((batch, rows), keys)
    if case == "causal":  # no row sees the last 300 keys
        limit[:] = np.linspace(1, 400, rows)
    elif case == "lengths":
        limit[:] = [[0], [129]]
    args = make(0, batch, kv_heads, rows, keys, 16, limit)
    if case == "segments":  # rows of the middle segment only: block 0 and from 384 on foreign
        ids = np.repeat([0, 1, 2], [128, 256, 316])[None].repeat(batch, 0).astype(np.int32)
        args = (*args[:3], Seen(args[3].limit, np.ones((batch, rows), np.int32), ids), *args[4:])
    recorder = Recorder()
    monkeypatch.setattr(flash.pl, "pallas_call", recorder)
    q, k, v, seen, lse, delta, do = args
    if backward:
        flash.backward(q, k, v, seen, lse, delta, do, scale=1.0, blocks=SMALL)
    else:
        flash.forward(q, k, v, seen, scale=1.0, out_dtype=q.dtype, blocks=SMALL)
    live = {"full": [range(6)] * 2, "causal": [range(4)] * 2, "lengths": [[0], [0, 1]],
            "segments": [[1, 2]] * 2}[case]  # fmt: skip
    want = [(b, j, s, 0) for b in range(batch) for j in range(kv_heads) for s in live[b]]
    assert recorder.fetches(k) == recorder.fetches(v) == want


def assert_no_race(call):
    """Runs `call` with a simulator of the chip's memories that knows uninitialised values and races."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator

    params = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise")
    try:
        call(params)  # from jax 0.12 on a race is an error here
        races = getattr(simulator, "races", None)
        assert races is None or not races.races_found
    finally:
        pltpu.reset_tpu_interpret_mode_state()


def test_no_race_and_no_uninitialised_value():
    args = make(5, 1, 2, 20, 150, 24, [causal(20, 150)], ids=True)
    assert_no_race(lambda params: check(args, interpret=params))


@pytest.mark.parametrize("kind, width", [("TPU v4", 64), ("TPU v5 lite", 72), ("TPU v6 lite", 128)])
def test_lowers_to_a_kernel_of_the_chip(kind, width):
    shape = lambda *s, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(s, dtype)
    q, k = shape(2, 2, 40, width), shape(2, 2, 300, width)
    seen = Seen(*(shape(2, n, dtype=jnp.int32) for n in (40, 40, 300)))
    vector = shape(2, 2, 40, dtype=jnp.float32)

    def both(q, k, v, seen, lse, delta, do):
        out = flash.forward(q, k, v, seen, scale=0.1, out_dtype=q.dtype)
        return out, flash.backward(q, k, v, seen, lse, delta, do, scale=0.1)

    with backend.tracing_for("tpu", kind):
        traced = jax.jit(both).trace(q, k, k, seen, vector, vector, q)
        assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2


def test_refusals_say_why():
    assert flash.refusal(jnp.bfloat16, 72, "TPU v5 lite") is flash.refusal("float32", 128, "") is None
    assert "float16" in flash.refusal(jnp.float16, 64, "")
    assert "float64" in flash.refusal("float64", 64, "TPU v6 lite")
    assert "head width 129" in flash.refusal(jnp.float32, 129, "")
    assert "TPU v3" in flash.refusal(jnp.float32, 64, "TPU v3")


@pytest.mark.parametrize(
    "sizes, named",
    [
        ({"rows": 24, "keys": 128}, "rows=24"),
        ({"rows": 16, "keys": 100}, "keys=100"),
        ({"rows": 16, "keys": 0}, "keys=0"),
        ({"rows": 32, "keys": 128, "resident": 48}, "resident=48"),
        ({"rows": 16, "keys": 128, "suffix": 64}, "suffix=64"),
        ({"rows": 16, "keys": 128, "suffix": 256, "together": 128}, "together=128"),
    ],
)
def test_impossible_sizes_are_refused_by_name(sizes, named):
    with pytest.raises(ValueError, match=named):
        Blocks(**sizes)


def test_every_chip_of_the_table_holds_its_sizes():
    """The fixed part of the kernels' memory, and one tile's rows, fit the chip with room for the rest."""
    for kind in [*blocks.CHIPS, "unknown"]:
        with backend.tracing_for("tpu", kind):
            for rows in (1, 64, 12_288):
                sizes = blocks.choose(rows, jnp.bfloat16)
                assert 6 * 4 * sizes.rows * sizes.keys + 4 * 256 * sizes.keys < blocks.chip().vmem / 2
                assert blocks.choose(rows, jnp.float32).keys * 2 == sizes.keys
