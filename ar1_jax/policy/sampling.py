"""K completions a scene over one shared prefix, in one compiled loop that ends when every row has ended.

B scenes, K samples, L completion room, D width, V vocabulary. The prefix is read, never returned; each row owns a
suffix cache of L tokens. Log-probabilities are those of the distribution sampled from: allowed ids, temperature,
top-k, top-p (inference.md section 7). A scene's draws depend on its own key only, whatever else is in the batch.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from ar1_kernels.linear_log_prob import inside

from ar1_jax.models import alpamayo
from ar1_jax.models.alpamayo import Prefix
from ar1_jax.models.config import ModelConfig
from ar1_jax.models.decoder import Cache, Past
from ar1_jax.models.grammar import Grammar

MASKED = -1e30


@flax.struct.dataclass
class Completions:
    """ids: int32 [B, K, L], padded after the end; log_prob: float32 [B, K, L], 0 in the padding; mask: bool [B, K, L],
    True where a token was sampled; complete: bool [B, K], ended by itself; suffix: Cache [layers, B, K, L, J, E]."""

    ids: jax.Array
    log_prob: jax.Array
    mask: jax.Array
    complete: jax.Array
    suffix: Cache

    @property
    def lengths(self):
        """Tokens of each completion, int32 [B, K]."""
        return self.mask.sum(axis=-1)


@flax.struct.dataclass
class _State:
    step: jax.Array
    ids: jax.Array
    log_prob: jax.Array
    mask: jax.Array
    hidden: jax.Array
    suffix: Cache
    since: jax.Array
    done: jax.Array


def truncate(logits, top_k: int | None, top_p):
    """logits [..., V] with ids outside the top k and outside the nucleus of mass top_p masked; the largest stays."""
    if top_k:
        kth = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < kth, MASKED, logits)
    if top_p is None:
        return logits
    ordered = jnp.sort(logits, axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    dropped = (mass <= 1 - top_p).at[..., -1].set(False)
    cut = jnp.min(jnp.where(dropped, jnp.inf, ordered), axis=-1, keepdims=True)
    return jnp.where(logits < cut, MASKED, logits)


def _choose(logits, keys, step, greedy: bool):
    """Ids [B, K] from logits [B, K, V]; keys: one a scene."""
    if greedy:
        return jnp.argmax(logits, axis=-1)
    draw = lambda key, rows: jax.random.categorical(jax.random.fold_in(key, step), rows)
    return jax.vmap(draw)(keys, logits)


@functools.partial(
    jax.jit, static_argnames=("config", "grammar", "samples", "length", "greedy", "top_k", "unroll")
)
def sample(
    config: ModelConfig, grammar: Grammar, params, prefix: Prefix, keys, *, samples: int, length: int,
    temperature=1.0, greedy: bool = False, top_k: int | None = None, top_p=None, forced=None, limit=None,
    unroll: int = 1,
) -> Completions:  # fmt: skip
    """K = `samples` completions of at most `length` ids behind each of B prefixes.

    keys: [B] random keys. greedy ignores temperature and keys. forced: int32 [L] ids to take where not negative.
    limit: int, stop after so many ids (at most `length`). Rows keep `grammar`; its log-probabilities come along.
    """
    batch, text = prefix.length.shape[0], config.text
    shape = (batch, samples, length)
    room = lambda c: jnp.zeros((*c.shape[:-3], samples, length, *c.shape[-2:]), c.dtype)
    empty = jax.tree.map(room, prefix.cache)
    hidden = jnp.broadcast_to(prefix.hidden[:, None], (batch, samples, prefix.hidden.shape[-1]))
    limit = length if limit is None else jnp.minimum(limit, length)
    numbers = jnp.arange(text.vocab_size)

    def body(s: _State) -> _State:
        allowed = grammar.allowed(s.since, s.step)
        logits = alpamayo.logits(params, s.hidden)
        logits = jnp.where(inside(numbers, allowed), logits if greedy else logits / temperature, MASKED)
        logits = truncate(logits, top_k, top_p)
        token = _choose(logits, keys, s.step, greedy)
        if forced is not None:
            token = jnp.where(forced[s.step] >= 0, forced[s.step], token)
        log_prob = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(
            logits, axis=-1
        )
        token = jnp.where(s.done, grammar.pad, token).astype(jnp.int32)
        positions = jnp.broadcast_to(prefix.next_position[:, None, None] + s.step, (3, batch, samples, 1))
        past = Past(prefix.cache, prefix.length, s.suffix, jnp.full((batch, samples), s.step))
        x = alpamayo.embed(params, token)[:, :, None]
        hidden, own = alpamayo.decode(config, params, x, positions, past, unroll=unroll)
        put = lambda cache, new: jax.lax.dynamic_update_slice_in_dim(
            cache, new.astype(cache.dtype), s.step, axis=-3
        )
        write = lambda row, new: jax.lax.dynamic_update_slice_in_dim(row, new[..., None], s.step, axis=2)
        if grammar.strict:
            ended = token == grammar.end()
        else:
            ended = (token == grammar.trigger) | (token == grammar.end_of_turn)
        return _State(
            s.step + 1, write(s.ids, token), write(s.log_prob, jnp.where(s.done, 0.0, log_prob)),
            write(s.mask, ~s.done), hidden[:, :, 0], jax.tree.map(put, s.suffix, own),
            jnp.where((s.since > 0) | (token == grammar.cot_end), s.since + 1, 0), s.done | ended,
        )  # fmt: skip

    start = _State(
        jnp.zeros((), jnp.int32), jnp.full(shape, grammar.pad, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool),
        hidden, empty, jnp.zeros(shape[:2], jnp.int32), jnp.zeros(shape[:2], bool),
    )  # fmt: skip
    end = jax.lax.while_loop(lambda s: (s.step < limit) & ~s.done.all(), body, start)
    if grammar.strict:
        complete = end.done & (jnp.argmax(end.ids == grammar.cot_end, axis=-1) < grammar.reasoning)
    else:
        complete = (end.ids == grammar.trigger).any(axis=-1)
    return Completions(end.ids, end.log_prob, end.mask, complete, end.suffix)
