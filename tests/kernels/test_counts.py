"""Counts of FLOPs and bytes. The reference: the products and arrays of the XLA path, as traced and as compiled, loops
over visible pairs, and numbers worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import attention, backend, chunked, counts, linear_log_prob, shared_prefix_attention
from ar1_kernels.counts import Cost
from ar1_kernels.packed import Seen
from ar1_kernels.tpu import flash, log_prob
from ar1_kernels.tpu import shared as tpu_shared
from ar1_kernels.tpu.blocks import Blocks
from jax.experimental import pallas as pl

B, K, N, S, L, H, J, E = 2, 3, 5, 7, 4, 4, 2, 64
ROWS, D, V = 6, 32, 50


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def products(function, *args):
    """FLOPs of every matrix product in the traced function, inner programs included."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                contracted = eqn.params["dimension_numbers"][0][0]
                inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
                yield 2 * inner * math.prod(eqn.outvars[0].aval.shape)
            for value in eqn.params.values():
                for inner in value if isinstance(value, (tuple, list)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from walk(inner)

    return sum(walk(jax.make_jaxpr(function)(*args).jaxpr))


def compiled(function, *args):
    """FLOPs that XLA counts for the compiled function."""
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def moved(function, *args):
    """Bytes of the arguments and results, each once."""
    return sum(
        math.prod(x.shape) * x.dtype.itemsize
        for x in (*args, *jax.tree.leaves(jax.eval_shape(function, *args)))
    )


def without_softmax(cost, elements, times=1):
    return cost.flops - times * counts.SOFTMAX_FLOPS * elements


def gradient(function, arguments):
    """The gradient of a sum of squares, so that the cotangent is an array like any other."""
    return jax.grad(lambda *args: (function(*args) ** 2).sum(), argnums=tuple(range(arguments)))


def attend(q, k, v):
    return attention(q, k, v, causal=False)


ATTENTION = (shaped(B, N, H, E), shaped(B, S, J, E), shaped(B, S, J, E))


def test_attention_counts_the_products_and_the_arrays_of_the_operation():
    cost = counts.attention(B, N, S, H, J, E, causal=False)
    assert without_softmax(cost, B * H * N * S) == products(attend, *ATTENTION)
    assert cost.flops == pytest.approx(compiled(attend, *ATTENTION), rel=0.05)
    assert cost.bytes == moved(attend, *ATTENTION)
    assert counts.attention(B, N, S, H, J, E, causal=False, width=2).bytes == cost.bytes / 2


def test_attention_backward_counts_what_gradients_need():
    kept = counts.attention_backward(B, N, S, H, J, E, causal=False, scores=True)
    whole = products(gradient(attend, 3), *ATTENTION)
    elements = B * H * N * S
    assert without_softmax(kept, elements, 2) == whole - products(attend, *ATTENTION)
    again = counts.attention_backward(B, N, S, H, J, E, causal=False)
    assert again.flops - kept.flops == 2 * E * elements  # q·k once more, instead of keeping its result
    q, k, v = ATTENTION
    assert again.bytes == moved(lambda q, k, v, out, do: (q, k, v), q, k, v, q, q)
    assert kept.bytes - again.bytes == 5 * 4 * elements


@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 7), (3, 8)])
def test_causal_attention_counts_visible_pairs_and_holding_scores_counts_all(n, m):
    visible = sum(j <= i + m - n for i in range(n) for j in range(m))
    cost = counts.attention(1, n, m, 1, 1, 1000, causal=True)
    assert cost.flops == visible * (4000 + counts.SOFTMAX_FLOPS)
    scores = counts.attention(1, n, m, 1, 1, 1000, causal=True, scores=True, width=2)
    assert scores.flops == n * m * (4000 + counts.SOFTMAX_FLOPS)
    # float32 scores and bf16 weights, each written and read: 12 bytes a pair
    assert scores.bytes == cost.bytes / 2 + 12 * n * m


def shared(q, prefix_k, prefix_v, suffix_k, suffix_v, own_k, own_v):
    lengths = {"prefix_length": np.full(B, S), "suffix_length": np.full((B, K), L)}
    return shared_prefix_attention(
        q, prefix_k, prefix_v, suffix_k, suffix_v, own_k=own_k, own_v=own_v, causal=False, **lengths
    )


SHARED = (
    shaped(B, K, N, H, E), shaped(B, S, J, E), shaped(B, S, J, E), shaped(B, K, L, J, E), shaped(B, K, L, J, E),
    shaped(B, K, N, J, E), shaped(B, K, N, J, E),
)  # fmt: skip
SIZES = (B, K, N, S, L, N, H, J, E)


def test_a_shared_prefix_counts_the_products_and_the_arrays_of_the_operation():
    cost = counts.shared_prefix(*SIZES, causal=False)
    elements = B * K * H * N * (S + L + N)
    assert without_softmax(cost, elements) == products(shared, *SHARED)
    assert cost.flops == pytest.approx(compiled(shared, *SHARED), rel=0.1)
    assert cost.bytes == moved(shared, *SHARED)
    back = counts.shared_prefix_backward(*SIZES, causal=False)
    # autodiff keeps the weights, four products; ours computes q·k again, a fifth
    found = products(gradient(shared, 7), *SHARED) - products(shared, *SHARED) + 2 * E * elements
    assert without_softmax(back, elements, 2) == found
    q = SHARED[0]
    assert back.bytes == moved(lambda *args: args[:7], *SHARED, q, q)


def test_a_repeated_prefix_is_attention_of_each_sequence_on_all_its_keys():
    """The same arithmetic; K - 1 more prefixes are read, and in the backward pass their gradients written."""
    for function, times in ((counts.shared_prefix, 1), (counts.shared_prefix_backward, 2)):
        once = function(*SIZES, causal=False)
        copies = function(*SIZES, causal=False, repeated=True)
        assert copies.flops == once.flops
        assert copies.bytes - once.bytes == times * 4 * B * (K - 1) * 2 * S * J * E
    copies = counts.shared_prefix(*SIZES, causal=False, repeated=True)
    assert copies == counts.attention(B * K, N, S + L + N, H, J, E, causal=False)
    alone = counts.shared_prefix(B, 1, *SIZES[2:], causal=True)
    assert alone == counts.shared_prefix(B, 1, *SIZES[2:], causal=True, repeated=True)
    causal = counts.attention(B, N, S + L + N, H, J, E, causal=True)  # own keys last, seen causally
    assert alone == causal


def score(hidden, weight):
    return linear_log_prob(hidden, weight, jnp.zeros(ROWS, jnp.int32))


def test_log_probability_counts_the_products_and_the_arrays_of_the_operation():
    args = (shaped(ROWS, D), shaped(D, V))
    cost, kept = counts.log_prob(ROWS, D, V), counts.log_prob_backward(ROWS, D, V, whole=True)
    assert without_softmax(cost, ROWS * V) == products(score, *args) == 2 * ROWS * D * V
    assert cost.flops == pytest.approx(compiled(score, *args), rel=0.1)
    labels = shaped(ROWS, dtype=jnp.int32)
    assert cost.bytes == moved(lambda h, w, labels: score(h, w), *args, labels)
    assert without_softmax(kept, ROWS * V) == products(gradient(score, 2), *args) - products(score, *args)
    again = counts.log_prob_backward(ROWS, D, V)
    assert again.flops - kept.flops == 2 * ROWS * D * V
    assert again.bytes == moved(lambda h, w, labels, g: (h, w), *args, labels, shaped(ROWS))


def test_holding_the_logits_moves_them():
    logits = ROWS * V
    more = [f(ROWS, D, V, width=2, whole=True).bytes - f(ROWS, D, V, width=2).bytes
            for f in (counts.log_prob, counts.log_prob_backward)]  # fmt: skip
    # forward: float32 written and read; backward: read, and a bf16 gradient written once and read twice
    assert more == [(4 + 4) * logits, (4 + 2 + 2 * 2) * logits]


def test_a_roofline_is_the_slower_of_arithmetic_and_memory():
    assert Cost(100, 10).seconds(50, 10) == 2 and Cost(100, 100).seconds(50, 10) == 10
    assert Cost(100, 10).intensity == 10 and 2 * Cost(1, 2) + Cost(1, 1) == Cost(3, 5)


def test_decoding_is_bound_by_memory_and_sixteen_samples_share_it():
    """K = 16 on 3,000 tokens of the released decoder, one layer, bf16: 12.3 MB of prefix, 197 MB repeated."""
    sizes = (1, 16, 1, 3000, 40, 1, 32, 8, 128)
    ours = counts.shared_prefix(*sizes, causal=True, width=2)
    theirs = counts.shared_prefix(*sizes, causal=True, width=2, repeated=True)
    assert 12.288e6 < ours.bytes < 16e6 and theirs.bytes - ours.bytes == 15 * 12.288e6
    for chip in counts.CHIPS.values():
        assert ours.seconds(chip.flops, chip.bandwidth) == ours.bytes / chip.bandwidth


def test_what_one_chip_reached_lies_below_what_its_maker_states():
    for name, reached in counts.REACHED.items():
        assert all(r <= stated for r, stated in zip(reached, counts.CHIPS[name], strict=True))


def fetched(monkeypatch, function, *args, **given):
    """Bytes between device memory and a TPU kernel that `function` calls, of each operand and result: its index maps
    walked over the grid, a block counted where it differs from the one before, clipped at its array's end."""
    found = []

    def record(kernel, *, grid_spec, out_shape, **_):
        def call(*operands):
            scalars = operands[: grid_spec.num_scalar_prefetch]
            outs = jax.tree.leaves(out_shape)
            specs = [*grid_spec.in_specs, *jax.tree.leaves(grid_spec.out_specs)]
            arrays = [*operands[len(scalars) :], *outs]
            points = jnp.array(list(np.ndindex(*grid_spec.grid)), jnp.int32)
            found.extend(walked(s, x, points, scalars) for s, x in zip(specs, arrays, strict=True))
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_shape)

        return call

    monkeypatch.setattr(pl, "pallas_call", record)
    with backend.tracing_for("tpu", "TPU v5 lite"):
        function(*args, **given)
    return found


def walked(spec, array, points, scalars):
    places = jax.vmap(lambda point: jnp.stack([jnp.int32(x) for x in spec.index_map(*point, *scalars)]))(
        points
    )
    places = np.asarray(places)
    changes = places[np.concatenate([[True], (places[1:] != places[:-1]).any(axis=1)])]
    sizes = np.array([1 if b is None else b for b in spec.block_shape])
    clipped = np.clip(np.array(array.shape) - changes * sizes, 0, sizes)
    return int(clipped.prod(axis=1).sum()) * array.dtype.itemsize


def rows_of(*lead, rows=64, keys=300, width=64):
    """q, k, v of one kernel call: 64 rows of a kv head are 32 queries of two heads."""
    return [jnp.ones((*lead, n, width)) for n in (rows, keys, keys)]


@pytest.mark.parametrize(("resident", "walks"), [(None, 1), (16, 4)])
def test_tpu_attention_moves_the_bytes_that_are_counted(monkeypatch, resident, walks):
    q, k, v = rows_of(2, 2)
    seen = Seen(jnp.full((2, 64), 300, jnp.int32))
    given = {"scale": 1.0, "blocks": Blocks(16, 128, resident)}
    _, *moved = fetched(monkeypatch, flash.forward, q, k, v, seen, out_dtype=q.dtype, **given)
    # q, k, v, limits, out, log-sum-exp: the vectors are left out
    counted = counts.attention(2, 32, 300, 4, 2, 64, causal=False, walks=walks)
    assert sum(moved[:3]) + moved[4] == counted.bytes


def test_tpu_attention_leaves_keys_that_no_row_sees_where_they_are(monkeypatch):
    q, k, v = rows_of(1, 1)
    seen = Seen(jnp.full((1, 64), 200, jnp.int32))
    given = {"scale": 1.0, "blocks": Blocks(16, 128), "out_dtype": q.dtype}
    _, _, keys, values, *_ = fetched(monkeypatch, flash.forward, q, k, v, seen, **given)
    assert keys == values == 256 * 64 * 4  # two blocks of 128 of the three


def test_tpu_attention_backward_moves_the_bytes_that_are_counted(monkeypatch):
    """The kernel never sees the output: delta, made from it and its gradient, is read instead."""
    q, k, v = rows_of(2, 2)
    seen, vector = Seen(jnp.full((2, 64), 300, jnp.int32)), jnp.zeros((2, 2, 64))
    moved = fetched(
        monkeypatch, flash.backward, q, k, v, seen, vector, vector, q, scale=1.0, blocks=Blocks(16, 128)
    )
    arrays = sum(moved[i] for i in (1, 2, 3, 4)) + sum(moved[-3:])  # q, k, v, do; dq, dk, dv
    assert arrays + q.nbytes == counts.attention_backward(2, 32, 300, 4, 2, 64, causal=False).bytes


@pytest.mark.parametrize("samples", [1, 3])
def test_tpu_kernel_fetches_a_shared_prefix_once_whatever_k_is(monkeypatch, samples):
    """Keys and values of prefix, suffixes and queries: the bytes of the counts, which hold one prefix."""
    b, j, n, r, s, size, e = 2, 2, 8, 2, 300, 20, 64
    q = jnp.ones((b, j, samples, n * r, e))
    prefix, suffix, own = (
        jnp.ones(x) for x in ((b, j, s, e), (b, samples, j, size, e), (b, samples, j, n, e))
    )
    lengths = jnp.full((b,), s, jnp.int32), jnp.full((b, samples), size, jnp.int32)
    args = (q, prefix, prefix, lengths[0], suffix, suffix, lengths[1], own, own)
    moved = fetched(monkeypatch, tpu_shared.forward, *args, causal=True, scale=1.0, blocks=Blocks(32, 128))
    assert moved[1] == moved[2] == prefix.nbytes
    counted = counts.shared_prefix(b, samples, n, s, size, n, j * r, j, e, causal=True)
    assert sum(moved[1:7]) + 2 * q.nbytes == counted.bytes
    assert moved[0] >= q.nbytes and moved[7] >= q.nbytes  # rows are padded to whole chunks


def test_tpu_log_probability_reads_the_weight_once_for_each_block_of_rows(monkeypatch):
    rows, features, vocabulary = 96, 128, 1000
    hidden, weight = jnp.ones((rows, features)), jnp.ones((features, vocabulary))
    per_row = chunked.Rows(
        jnp.zeros(rows, jnp.int32), jnp.ones(rows), jnp.tile(jnp.array([[0, vocabulary]]), (rows, 1))
    )
    args = (hidden, weight, *per_row, 0, 0, vocabulary)
    moved = fetched(
        monkeypatch, log_prob.stats, *args, blocks=log_prob.Blocks(rows=32, ids=256, part=128, strip=32)
    )
    assert moved[0] == hidden.nbytes and moved[1] == 3 * weight.nbytes
    counted = counts.log_prob(rows, features, vocabulary, walks=3)
    assert moved[0] + moved[1] + 2 * 4 * rows == counted.bytes  # labels, results


def test_all_rows_of_the_released_model_fit_a_tpu(monkeypatch):
    """So that one walk past the keys, the least, is what the README counts: results come in one part."""
    shapes = []

    def record(kernel, *, out_shape, **_):
        shapes.append(out_shape[0].shape)
        return lambda *operands: [jnp.zeros(x.shape, x.dtype) for x in out_shape]

    monkeypatch.setattr(pl, "pallas_call", record)
    for rows, keys, heads, width in (
        (12_000, 3_000, 8, 128),
        (11_520, 11_520, 16, 72),
        (8_640, 3_000, 8, 128),
    ):
        q, k = (shaped(1, heads, n, width, dtype=jnp.bfloat16) for n in (rows, keys))
        seen, vector = Seen(shaped(1, rows, dtype=jnp.int32)), shaped(1, heads, rows)
        with backend.tracing_for("tpu", "TPU v5 lite"):
            jax.eval_shape(lambda *a: flash.forward(*a, scale=1.0, out_dtype=jnp.bfloat16), q, k, k, seen)
            jax.eval_shape(lambda *a: flash.backward(*a, scale=1.0), q, k, k, seen, vector, vector, q)
    assert len(shapes) == 6 and all(shape[2] == 1 for shape in shapes)
