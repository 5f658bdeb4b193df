"""Operation costs. The reference: XLA's own count of the compiled operation, and numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.core import costs
from ar1_jax.core.costs import Cost


def counted(function, *shapes):
    """FLOPs that XLA counts for a compiled function of float32 arrays."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(("m", "k", "n"), [(64, 32, 16), (3, 128, 48)])
def test_products_agree_with_the_compiler(m, k, n):
    cost = costs.matmul(m, k, n)
    assert cost.flops == counted(jnp.dot, (m, k), (k, n)) == 2 * m * k * n
    assert cost.bytes == 4 * (m * k + k * n + m * n)
    back = counted(jax.grad(lambda a, b: jnp.dot(a, b).sum() ** 2, argnums=(0, 1)), (m, k), (k, n))
    assert costs.matmul_backward(m, k, n).flops == pytest.approx(4 * m * k * n)
    assert back >= costs.matmul_backward(m, k, n).flops


def test_a_batch_shares_its_weight_or_has_one_each():
    assert costs.matmul(4, 8, 2, batch=3).bytes == 4 * (3 * 4 * (8 + 2) + 8 * 2)
    assert costs.matmul(4, 8, 2, batch=3, shared=False).bytes == 4 * (3 * 4 * (8 + 2) + 3 * 8 * 2)
    assert costs.matmul(4, 8, 2, batch=3, width=2).bytes == costs.matmul(4, 8, 2, batch=3).bytes / 2
    assert costs.matmul_backward(4, 8, 2, batch=3, weight=False).flops == 3 * 2 * 4 * 8 * 2


def test_attention_agrees_with_the_compiler_where_nothing_is_masked():
    b, n, m, h, j, e = 2, 32, 48, 4, 2, 64

    def attend(q, k, v):
        q = q.reshape(b, n, j, h // j, e)
        scores = jax.nn.softmax(jnp.einsum("BNJRE,BMJE->BJRNM", q, k), axis=-1)
        return jnp.einsum("BJRNM,BMJE->BNJRE", scores, v)

    found = counted(attend, (b, n, h, e), (b, m, j, e), (b, m, j, e))
    assert costs.attention(b, n, m, h, j, e, causal=False).flops == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (1, 7), (3, 8)])
def test_causal_pairs_are_those_of_the_mask(n, m):
    mask = np.arange(m)[None] <= np.arange(n)[:, None] + m - n
    assert costs.pairs(n, m, causal=True) == mask.sum() and costs.pairs(n, m, causal=False) == n * m


def test_backward_attention_is_two_and_a_half_times_the_products():
    forward = costs.attention(1, 8, 8, 2, 1, 1000, causal=True).flops
    assert costs.attention_backward(1, 8, 8, 2, 1, 1000, causal=True).flops == pytest.approx(
        2.5 * forward, rel=1e-2
    )


def test_costs_add_up():
    assert costs.total([Cost(1, 2), Cost(3, 4)]) == Cost(4, 6) == 2 * Cost(2, 3) == Cost(2, 3) * 2
    assert costs.norm(3, 8) == Cost(4 * 24, 4 * 56) and costs.gather(3, 8).bytes == 4 * 48
    assert costs.elementwise(3, 8, flops=2, operands=2) == Cost(48, 4 * 72)
    assert Cost(100, 10).seconds(50, 10) == 2 and Cost(100, 100).seconds(50, 10) == 10
