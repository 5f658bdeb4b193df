"""Log-probability of labels under softmax(hidden · weight / temperature): by kernels, or in XLA in blocks of rows.

N rows, D width, V vocabulary. The [N, V] logits never exist as a whole: a block of rows is scored, reduced and, in
the backward pass, scored again.
"""

import jax
import jax.numpy as jnp

from ar1_kernels import backend as _backend
from ar1_kernels import chunked, engines, sharded
from ar1_kernels.attention import MASKED
from ar1_kernels.chunked import inside

LOGITS = 2**25  # logits held at once, in elements (128 MB in float32)


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
    if chosen != "xla":
        engine = engines.log_prob(chosen, _backend.target().interpret, blocks)

        def run(hidden, weight, labels, temperature, allowed):
            rest = {"temperature": temperature, "allowed": allowed, "entropy": entropy}
            return chunked.log_prob(engine, hidden, weight, labels, **rest)

        return sharded.linear_log_prob(run, hidden, weight, jnp.asarray(labels), temperature, allowed)

    def block(args):
        hidden, labels, temperature, allowed = args
        logits = jnp.dot(hidden, weight, preferred_element_type=jnp.float32) / temperature[:, None]
        logits = jnp.where(inside(jnp.arange(vocabulary), allowed), logits, MASKED)
        total = jax.nn.logsumexp(logits, axis=-1)
        log_prob = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0] - total
        if not entropy:
            return (log_prob,)
        p = jnp.exp(logits - total[:, None])
        return log_prob, total - jnp.sum(p * jnp.where(p > 0, logits, 0.0), axis=-1)

    args = (hidden, labels, temperature, allowed)
    size = max(1, LOGITS // vocabulary)
    if rows <= size:
        out = block(args)
    else:
        blocks = -(-rows // size)
        pad = lambda x: jnp.pad(x, [(0, blocks * size - rows)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        split = jax.tree.map(lambda x: pad(x).reshape(blocks, size, *x.shape[1:]), args)
        out = jax.tree.map(lambda x: x.reshape(-1)[:rows], jax.lax.map(jax.checkpoint(block), split))
    return out if entropy else out[0]
