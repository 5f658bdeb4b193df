"""The whole [N, V] softmax written out, and problems to compare kernels of `linear_log_prob` with it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ar1_kernels import chunked

MASKED = chunked.MASKED


class Problem(NamedTuple):
    hidden: jax.Array  # [N, D]
    weight: jax.Array  # [D, V]
    labels: np.ndarray  # int32 [N]
    temperature: np.ndarray  # float32 [N]
    allowed: np.ndarray  # int32 [N, 2]
    g: np.ndarray  # float32 [N], cotangent of the log-probability
    e: np.ndarray  # float32 [N], cotangent of the entropy


def problem(rows, width, vocabulary, dtype="float32", seed=0) -> Problem:
    """Rows in turn: all ids, an interval, its complement, one id; labels on first and last ids, and one outside."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)
    third = vocabulary // 3
    kinds = [[0, vocabulary], [third, 2 * third], [2 * third, third], [vocabulary - 1, vocabulary]]
    inside = [
        vocabulary - 1,
        third,
        vocabulary - 1,
        vocabulary - 1,
        0,
        2 * third - 1,
        0,
        vocabulary - 1,
        third,
    ]
    labels = np.array([inside[n % len(inside)] if n < 24 else inside[n % 4] for n in range(rows)], np.int32)
    return Problem(
        jnp.asarray(normal(rows, width), dtype),
        jnp.asarray(2 * normal(width, vocabulary) / np.sqrt(width), dtype),
        labels,
        np.linspace(0.5, 1.5, rows).astype("float32"),
        np.array([kinds[n % 4] for n in range(rows)], np.int32),
        normal(rows).astype("float32"),
        normal(rows).astype("float32"),
    )


def dense(p: Problem, hidden, weight):
    """Log-probability and entropy [N] from one float32 softmax over all ids."""
    z = hidden.astype(jnp.float32) @ weight.astype(jnp.float32) / jnp.asarray(p.temperature)[:, None]
    ids, first, second = np.arange(weight.shape[1]), p.allowed[:, :1], p.allowed[:, 1:]
    counts = jnp.where(first <= second, (ids >= first) & (ids < second), (ids >= first) | (ids < second))
    z = jnp.where(counts, z, MASKED)
    log_p = z - jax.nn.logsumexp(z, axis=1, keepdims=True)
    entropy = -jnp.sum(jnp.exp(log_p) * jnp.where(counts, log_p, 0.0), axis=1)
    return jnp.take_along_axis(log_p, p.labels[:, None], 1)[:, 0], entropy


def by_engine(engine, chunk=None):
    """The same by the kernels of `engine`, as a function of (problem, hidden, weight)."""

    def run(p, hidden, weight):
        rest = {"temperature": p.temperature, "allowed": jnp.asarray(p.allowed), "entropy": True}
        return chunked.log_prob(engine, hidden, weight, p.labels, chunk=chunk, **rest)

    return run


def values_and_gradients(run):
    """run(problem, hidden, weight) -> compiled function of a problem: (log_prob, entropy, d hidden, d weight)."""

    def both(p):
        out, back = jax.vjp(lambda h, w: run(p, h, w), p.hidden, p.weight)
        return *out, *back((p.g, p.e))

    return jax.jit(both)


DENSE = values_and_gradients(dense)


def check(got, p: Problem, want=None, atol=2e-5):
    """Compares what `values_and_gradients` gives with the dense softmax in float32, or with `want`."""
    if want is None:
        want = DENSE(p._replace(hidden=p.hidden.astype(jnp.float32), weight=p.weight.astype(jnp.float32)))
    for name, a, b in zip(("log_prob", "entropy", "d hidden", "d weight"), got, want):
        a, b = (np.asarray(x, "float32") for x in (a, b))
        np.testing.assert_allclose(a, b, atol=atol, rtol=max(1e-5, atol), err_msg=name)


def check_bfloat16(got, p: Problem, chunk=None):
    """The same in bfloat16, against XLA's engine, which rounds d loss / d logits as the kernels do."""
    check(got, p, values_and_gradients(by_engine(chunked.XLA, chunk))(p), atol=4e-3)
