"""jax's splash attention behind our signature: against a softmax over live keys, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels.tpu import splash

N, H, J, E = 256, 2, 1, 128


def dense(q, k, v, causal, lengths, scale):
    live = np.tri(N, dtype=bool) if causal else np.ones((N, N), bool)
    live = live & (np.arange(N) < lengths[:, None])[:, None, None]
    scores = jnp.einsum("bnhe,bmje->bhnm", q, k, precision="highest") * scale
    weights = jax.nn.softmax(jnp.where(live, scores, -1e30))
    return jnp.einsum("bhnm,bmje->bnhe", weights, v, precision="highest")


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_splash_is_attention_over_live_keys(causal):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, N, heads, E)).astype("float32") for heads in (H, J, J))
    lengths, scale = np.array([N, 130]), 0.0625
    weight = rng.normal(size=q.shape) * (np.arange(N) < lengths[:, None])[:, :, None, None]
    given = {"causal": causal, "lengths": lengths, "scale": scale}

    def value(run):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(run(*x) * weight), has_aux=False))((q, k, v))

    got = value(lambda q, k, v: splash.attention(q, k, v, **given, interpret=True))
    want = value(lambda q, k, v: dense(q, k, v, **given))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 if y.ndim else 1e-2)


@pytest.mark.parametrize(
    "given, named",
    [
        ({"dtype": jnp.float16}, "float16"),
        ({"width": 72}, "head width 72"),
        ({"segments": True}, "segment ids"),
        ({"m": 512}, "256 queries on 512 keys"),
        ({"n": 200, "m": 200}, "200 tokens"),
        ({"kind": "TPU v3"}, "TPU v3"),
    ],
)
def test_refusals_say_why(given, named):
    fine = {"dtype": jnp.bfloat16, "width": 128, "kind": "TPU v5 lite", "n": 256, "m": 256, "segments": False}
    assert splash.refusal(**fine) is None
    assert named in splash.refusal(**fine | given)


def test_a_refused_call_fails_with_the_reason():
    q = jnp.zeros((1, 256, 2, 72), jnp.bfloat16)
    with pytest.raises(ValueError, match="splash: head width 72"):
        splash.attention(q, q, q, causal=True, lengths=None, scale=1.0)
