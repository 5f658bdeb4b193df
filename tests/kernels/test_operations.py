"""The three operations against loops in NumPy that see live keys and ids only; values, then gradients, then buffers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import attention, linear_log_prob, shared_prefix_attention
from ar1_kernels.linear_log_prob import inside

attention_module = __import__("ar1_kernels.attention", fromlist=["SCORES"])
shared_module = __import__("ar1_kernels.shared_prefix", fromlist=["SCORES"])
log_prob_module = __import__("ar1_kernels.linear_log_prob", fromlist=["LOGITS"])

RNG = np.random.default_rng(0)
B, K, N, S, L, H, J, E = 2, 3, 5, 7, 4, 4, 2, 8


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def loop(q, keys, values):
    """One query [E] on its live keys [n, E]: softmax average of the values."""
    p = np.exp((keys @ q) / np.sqrt(len(q)))
    return p @ values / p.sum()


@pytest.mark.parametrize("way", ["at once", "in chunks", "by head"])
@pytest.mark.parametrize("case", ["plain", "causal", "lengths", "segments", "few queries"])
def test_attention_matches_loops_over_live_keys(case, way, monkeypatch):
    if way == "in chunks":
        monkeypatch.setattr(attention_module, "SCORES", B * H * S * 2)
    if way == "by head":  # three queries of a head at a time, the last part ragged
        monkeypatch.setattr(attention_module, "ON_PROCESSOR", 0)
        monkeypatch.setattr(attention_module, "QUERIES", 3)
    n = 3 if case == "few queries" else S
    q, k, v = normal(B, n, H, E), normal(B, S, J, E), normal(B, S, J, E)
    lengths = np.array([4, 7]) if case == "lengths" else None
    segments = np.array([[0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 2]]) if case == "segments" else None
    causal = case in ("causal", "few queries")
    got = attention(q, k, v, causal=causal, lengths=lengths, segment_ids=segments)
    for b, i, h in np.ndindex(B, n, H):
        live = np.ones(S, bool)
        if causal:
            live &= np.arange(S) <= i + S - n
        if lengths is not None:
            live &= np.arange(S) < lengths[b]
        if segments is not None:
            live &= segments[b] == segments[b, i]
        want = loop(q[b, i, h], k[b, live, h // 2], v[b, live, h // 2])
        np.testing.assert_allclose(got[b, i, h], want, atol=2e-6, err_msg=f"row {b}, query {i}, head {h}")


def shared_inputs():
    return {
        "q": normal(B, K, N, H, E), "prefix_k": normal(B, S, J, E), "prefix_v": normal(B, S, J, E),
        "suffix_k": normal(B, K, L, J, E), "suffix_v": normal(B, K, L, J, E),
        "own_k": normal(B, K, N, J, E), "own_v": normal(B, K, N, J, E),
    }  # fmt: skip


PREFIX_LENGTH, SUFFIX_LENGTH = np.array([5, 7]), np.array([[0, 2, 4], [4, 1, 3]])


def shared(causal, **given):
    return shared_prefix_attention(
        causal=causal, prefix_length=PREFIX_LENGTH, suffix_length=SUFFIX_LENGTH, **given
    )


def take(way, monkeypatch):
    """Sends the small shapes of these tests the way that large ones go."""
    if way == "in blocks":  # three keys of the prefix at a time, the last block ragged
        monkeypatch.setattr(shared_module, "PREFIX_BLOCK", 3)
        monkeypatch.setattr(shared_module, "SCORES", 1)
    elif way == "by head":
        monkeypatch.setattr(shared_module, "ONE_HEAD", 0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("way", ["at once", "in blocks", "by head"])
def test_shared_prefix_matches_loops_over_live_keys(causal, way, heads_first, monkeypatch):
    take(way, monkeypatch)
    x = shared_inputs()
    swapped = {name: x[name].swapaxes(-3, -2) for name in ("prefix_k", "prefix_v", "suffix_k", "suffix_v")}
    given = x | swapped if heads_first else x
    got = shared(causal, heads_first=heads_first, **given)
    for b, s, n, h in np.ndindex(B, K, N, H):
        own = slice(0, n + 1) if causal else slice(None)
        j, p, m = h // 2, PREFIX_LENGTH[b], SUFFIX_LENGTH[b, s]
        keys = np.concatenate([x["prefix_k"][b, :p, j], x["suffix_k"][b, s, :m, j], x["own_k"][b, s, own, j]])
        values = np.concatenate(
            [x["prefix_v"][b, :p, j], x["suffix_v"][b, s, :m, j], x["own_v"][b, s, own, j]]
        )
        np.testing.assert_allclose(got[b, s, n, h], loop(x["q"][b, s, n, h], keys, values), atol=2e-6)


def repeated(x, causal):
    """The way that copies the prefix K times, in one softmax: what must come out, and its gradient."""
    rows = lambda a: jnp.repeat(a[:, None], K, axis=1)
    keys = jnp.concatenate([rows(x["prefix_k"]), x["suffix_k"], x["own_k"]], axis=2)
    values = jnp.concatenate([rows(x["prefix_v"]), x["suffix_v"], x["own_v"]], axis=2)
    own = np.tri(N, dtype=bool) if causal else np.ones((N, N), bool)
    live = np.concatenate([
        np.broadcast_to((np.arange(S) < PREFIX_LENGTH[:, None])[:, None, None], (B, K, N, S)),
        np.broadcast_to((np.arange(L) < SUFFIX_LENGTH[..., None])[:, :, None], (B, K, N, L)),
        np.broadcast_to(own, (B, K, N, N)),
    ], axis=-1)  # fmt: skip
    keys, values = (jnp.repeat(a, H // J, axis=3) for a in (keys, values))
    scores = jnp.einsum("BKNHE,BKMHE->BKHNM", x["q"], keys) / np.sqrt(E)
    return jnp.einsum(
        "BKHNM,BKMHE->BKNHE", jax.nn.softmax(jnp.where(live[:, :, None], scores, -1e30)), values
    )


@pytest.mark.parametrize("way", ["at once", "in blocks", "by head"])
def test_shared_prefix_gradient_is_that_of_the_repeated_prefix(way, monkeypatch):
    take(way, monkeypatch)
    x, weight = shared_inputs(), normal(B, K, N, H, E)
    got = jax.grad(lambda x: jnp.sum(shared(True, **x) * weight))(x)
    want = jax.grad(lambda x: jnp.sum(repeated(x, True) * weight))(x)
    for name in x:
        np.testing.assert_allclose(got[name], want[name], atol=2e-5, err_msg=name)


def largest_buffer(function, *args):
    text = jax.jit(function).lower(*args).compile().as_text()
    return max(
        int(np.prod([int(d) for d in shape.split(",")])) for shape in re.findall(r"f32\[([\d,]+)\]", text)
    )


def test_no_buffer_holds_the_prefix_once_a_sample():
    samples, size, width = 16, 512, 64
    q = jnp.ones((1, samples, 1, J, width))
    k = jnp.ones((1, size, J, width))
    own = jnp.ones((1, samples, 1, J, width))
    length = jnp.array([size])
    ours = lambda q, k, own: shared_prefix_attention(
        q, k, k, prefix_length=length, causal=True, own_k=own, own_v=own
    )
    copied = lambda q, k, own: attention(
        q[0], *[jnp.repeat(k, samples, axis=0) + own[0]] * 2, causal=False
    )  # the probe: a way that does hold it
    assert largest_buffer(ours, q, k, own) < samples * size * width
    assert largest_buffer(copied, q, k, own) >= samples * size * width


@pytest.mark.parametrize("block", [2**25, 3 * 11])
def test_linear_log_prob_matches_a_softmax_over_allowed_ids(block, monkeypatch):
    monkeypatch.setattr(log_prob_module, "LOGITS", block)
    rows, width, vocabulary = 7, 6, 11
    hidden, weight = normal(rows, width), normal(width, vocabulary)
    labels = np.array([3, 4, 10, 0, 9, 2, 5])
    allowed = np.array([[0, 11], [4, 5], [9, 2], [9, 2], [3, 11], [0, 3], [5, 6]])
    temperature = np.linspace(0.5, 1.5, rows).astype("float32")
    got, entropy = linear_log_prob(
        hidden, weight, labels, temperature=temperature, allowed=allowed, entropy=True
    )
    for n in range(rows):
        first, second = allowed[n]
        ids = np.arange(first, second) if first <= second else np.r_[first:vocabulary, 0:second]
        logits = hidden[n] @ weight[:, ids] / temperature[n]
        log_p = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(got[n], log_p[list(ids).index(labels[n])], atol=2e-6, err_msg=f"row {n}")
        np.testing.assert_allclose(entropy[n], -(np.exp(log_p) * log_p).sum(), atol=2e-6, err_msg=f"row {n}")


def test_linear_log_prob_gradient_in_blocks_is_that_of_the_whole(monkeypatch):
    hidden, weight, labels = normal(7, 6), normal(6, 11), np.arange(7)
    loss = lambda h, w: linear_log_prob(h, w, labels, temperature=0.7).sum()
    dense = lambda h, w: jnp.take_along_axis(jax.nn.log_softmax(h @ w / 0.7), labels[:, None], 1).sum()
    want = jax.grad(dense, (0, 1))(hidden, weight)
    monkeypatch.setattr(log_prob_module, "LOGITS", 3 * 11)
    for got, expected in zip(jax.grad(loss, (0, 1))(hidden, weight), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_intervals_wrap_round():
    ids = np.arange(6)
    np.testing.assert_array_equal(inside(ids, np.array([4, 1])), [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(inside(ids, np.array([1, 4])), [0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("backend", ["pallas_tpu", "cudnn", "triton"])
def test_an_impossible_backend_is_refused_with_its_name(backend):
    q = normal(1, 1, 1, 1)
    with pytest.raises(ValueError, match=backend):
        attention(q, q, q, causal=False, backend=backend)
