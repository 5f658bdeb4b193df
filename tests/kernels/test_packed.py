"""Rows, joins and derivatives around the kernels, with an engine written out in jax.numpy: what `packed` does is
right for any target whose kernels keep `Engine`'s promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import attention, packed, shared_prefix_attention

from tests.kernels import plain

B, K, N, S, L, H, J, E = 2, 3, 5, 7, 4, 4, 2, 8
KEY = jax.random.key(0)


def normal(index, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, index), shape)


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), got, want)


@pytest.mark.parametrize("case", ["plain", "causal", "lengths", "segments", "few queries"])
def test_attention_and_its_gradients_equal_the_xla_path(case):
    n = 3 if case == "few queries" else S
    arrays = normal(1, B, n, H, E), normal(2, B, S, J, E), normal(3, B, S, J, E)
    weights = normal(4, B, n, H, E)
    how = {"causal": case in ("causal", "few queries")}
    lengths = jnp.array([4, 7]) if case == "lengths" else None
    segments = jnp.array([[5, 5, 1, 1, 5, 2, 2]] * B) if case == "segments" else None

    def loss(run, *arrays):
        return jnp.sum(run(*arrays) * weights)

    ours = lambda *a: packed.attention(plain.ENGINE, *a, segments, lengths, scale=E**-0.5, **how)
    want = lambda *a: attention(*a, segment_ids=segments, lengths=lengths, backend="xla", **how)
    close(ours(*arrays), want(*arrays))
    grads = lambda run: jax.grad(loss, argnums=(1, 2, 3))(run, *arrays)
    close(grads(ours), grads(want))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("parts", ["prefix", "prefix suffix", "prefix own", "prefix suffix own"])
def test_shared_prefix_attention_and_its_gradients_equal_the_xla_path(parts, causal):
    arrays = {"q": normal(0, B, K, N, H, E)}
    shapes = {"prefix": (B, J, S, E), "suffix": (B, K, J, L, E), "own": (B, K, N, J, E)}
    for i, part in enumerate(parts.split()):
        arrays |= {f"{part}_{c}": normal(10 * i + j, *shapes[part]) for j, c in enumerate("kv", start=1)}
    lengths = {"prefix_length": jnp.array([5, 7])}
    if "suffix" in parts:
        lengths["suffix_length"] = jnp.array([[0, 4, 2], [1, 3, 4]])
    weights = normal(9, B, K, N, H, E)

    def want(arrays):
        out = shared_prefix_attention(**arrays, **lengths, causal=causal, heads_first=True, backend="xla")
        return jnp.sum(out * weights), out

    def ours(arrays):
        get = lambda name: arrays.get(name)
        flip = lambda x: None if x is None else x.swapaxes(-3, -2)
        keys = packed.Keys(get("prefix_k"), get("prefix_v"), lengths["prefix_length"], get("suffix_k"), get("suffix_v"),
                           lengths.get("suffix_length"), flip(get("own_k")), flip(get("own_v")))  # fmt: skip
        out = packed.shared_prefix_attention(plain.ENGINE, arrays["q"], keys, causal=causal, scale=E**-0.5)
        return jnp.sum(out * weights), out

    close(ours(arrays)[1], want(arrays)[1])
    take = lambda run: jax.grad(lambda a: run(a)[0])(arrays)
    close(take(ours), take(want))
