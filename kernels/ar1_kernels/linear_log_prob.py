"""Log-probability of labels under softmax(hidden · weight / temperature), by kernels or in XLA.

N rows, D width, V vocabulary. Where the [N, V] logits are many they never exist as a whole: a chunk of the vocabulary
is scored, reduced and, in the backward pass, scored again (chunked.py).
"""

import jax
import jax.numpy as jnp

from ar1_kernels import backend as _backend
from ar1_kernels import chunked, engines, sharded
from ar1_kernels.attention import MASKED
from ar1_kernels.chunked import inside

LOGITS = 2**25  # logits held at once in XLA, in elements (128 MB in float32)


def linear_log_prob(
    hidden, weight, labels, *, temperature=1.0, allowed=None, entropy=False, backend="auto", blocks=None
):
    """hidden [N, D], weight [D, V], labels int [N] -> log_prob float32 [N], or (log_prob, entropy) in nats.

    temperature: scalar or [N]; it gets no gradient. allowed: int [N, 2], the half-open interval of ids that the softmax
    runs over; with allowed[n, 0] > allowed[n, 1] it wraps round (ids >= first or < second), the complement of an
    interval. A label outside its interval has log-probability about -1e30. backend: `backend.choose`; blocks: block
    sizes of a Pallas back-end, None: from its table.
    """
    rows, vocabulary = hidden.shape[0], weight.shape[1]
    refusals = engines.log_prob_refusals(hidden, weight, _backend.target().kind)
    chosen = _backend.choose("linear_log_prob", backend, refusals)
    temperature = jax.lax.stop_gradient(jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), (rows,)))
    whole = jnp.broadcast_to(jnp.array([0, vocabulary], jnp.int32), (rows, 2))
    allowed = whole if allowed is None else jnp.asarray(allowed)
    if chosen == "xla" and rows * vocabulary <= LOGITS:
        return _at_once(hidden, weight, labels, temperature, allowed, entropy)
    engine = chunked.XLA if chosen == "xla" else engines.log_prob(chosen, _backend.target().interpret, blocks)

    def run(hidden, weight, labels, temperature, allowed):
        rest = {"temperature": temperature, "allowed": allowed, "entropy": entropy}
        return chunked.log_prob(engine, hidden, weight, labels, **rest)

    if chosen == "xla":  # which XLA partitions by itself
        return run(hidden, weight, labels, temperature, allowed)
    return sharded.linear_log_prob(run, hidden, weight, jnp.asarray(labels), temperature, allowed)


def _at_once(hidden, weight, labels, temperature, allowed, entropy):
    """One product, whose logits the backward pass finds kept: the fastest while they are few."""
    logits = jnp.dot(hidden, weight, preferred_element_type=jnp.float32) / temperature[:, None]
    logits = jnp.where(inside(jnp.arange(weight.shape[1]), allowed), logits, MASKED)
    total = jax.nn.logsumexp(logits, axis=-1)
    log_prob = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0] - total
    if not entropy:
        return log_prob
    p = jnp.exp(logits - total[:, None])
    return log_prob, total - jnp.sum(p * jnp.where(p > 0, logits, 0.0), axis=-1)
