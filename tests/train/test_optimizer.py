"""AdamW with tables against Adam written out in NumPy; freezing; errors of tables."""

import jax
import numpy as np
import pytest

from ar1_jax.core import errors, trees
from ar1_jax.train import optimizer

RNG = np.random.default_rng(0)
PARAMS = {
    "vision": {"kernel": RNG.normal(size=(3, 2)).astype("float32"), "bias": np.ones(2, "float32")},
    "text": {
        "input_layernorm": np.ones((2, 2), "float32"),
        "kernel": RNG.normal(size=(2, 2)).astype("float32"),
    },
}
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape).astype("float32"), PARAMS) for _ in range(3)]


def reference(params, rate, decay, clip=1.0, b1=0.9, b2=0.95, lr=0.1):
    """Three steps, leaf by leaf; `rate` and `decay` map a path to its factor."""
    names = list(trees.flatten(params))
    p = dict(zip(names, (np.float64(x) for x in jax.tree.leaves(params)), strict=True))
    m, v = ({n: np.zeros_like(p[n]) for n in names} for _ in range(2))
    for t, tree in enumerate(GRADS, 1):
        g = dict(zip(names, (np.float64(x) for x in jax.tree.leaves(tree)), strict=True))
        norm = np.sqrt(sum((g[n] ** 2).sum() for n in names if rate(n) > 0))
        for n in names:
            scaled = g[n] * min(1.0, clip / norm) * (rate(n) > 0)
            m[n], v[n] = b1 * m[n] + (1 - b1) * scaled, b2 * v[n] + (1 - b2) * scaled**2
            step = m[n] / (1 - b1**t) / (np.sqrt(v[n] / (1 - b2**t)) + 1e-8)
            p[n] = p[n] - lr * rate(n) * (step + decay(n) * p[n])
    return p


def run(rates):
    tree = optimizer.by_pattern(PARAMS, rates, "rates")
    tx = optimizer.adamw(PARAMS, b1=0.9, b2=0.95, weight_decay=0.05, clip=1.0, rates=tree)
    params, state = PARAMS, tx.init(PARAMS)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
    return dict(zip(list(trees.flatten(params)), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize("vision", [1.0, 0.1, 0.0])
def test_three_steps_match_adam_written_out(vision):
    got = run(((r"vision/.*", vision), (r".*", 1.0)))
    want = reference(
        PARAMS, lambda n: vision if n.startswith("vision") else 1.0, lambda n: 0.05 * n.endswith("kernel")
    )
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-6, err_msg=name)


def test_frozen_parameters_do_not_move_and_are_named():
    rates = ((r"vision/.*", 0.0), (r".*", 1.0))
    np.testing.assert_array_equal(run(rates)["vision/kernel"], PARAMS["vision"]["kernel"])
    assert optimizer.frozen(optimizer.by_pattern(PARAMS, rates, "rates")) == ["vision/bias", "vision/kernel"]


def test_a_table_that_does_not_fit_names_all_offenders():
    with pytest.raises(errors.ConfigError) as caught:
        optimizer.by_pattern(PARAMS, ((r"visoin/.*", 0.1), (r"text/.*", 1.0)), "rates")
    for words in ("visoin", "vision/bias", "vision/kernel", "rates"):
        assert words in str(caught.value)
