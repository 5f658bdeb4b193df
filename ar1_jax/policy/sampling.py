"""K completions a scene over one shared prefix, in one compiled loop that ends when every row has ended.

B scenes, K samples, L completion room, D width, V vocabulary. The prefix is read, never returned; each row owns a
suffix cache of L tokens. Log-probabilities are those of the distribution sampled from: allowed ids, temperature,
top-k, top-p (inference.md section 7). A scene's draws depend on its own key only, whatever else is in the batch, and an
id's on its key, sample and index, so that `drafts.sample` draws the same.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from ar1_kernels.attention import MASKED
from ar1_kernels.linear_log_prob import inside

from ar1_jax.models import alpamayo
from ar1_jax.models.alpamayo import Prefix
from ar1_jax.models.config import ModelConfig
from ar1_jax.models.decoder import Cache, Past
from ar1_jax.models.grammar import Grammar


@flax.struct.dataclass
class Completions:
    """ids: int32 [B, K, L], padded after the end; log_prob: float32 [B, K, L], 0 in the padding; mask: bool [B, K, L],
    True where a token was sampled; complete: bool [B, K], ended by itself; suffix: Cache [layers, B, K, J, L, E];
    rounds: int32 [], how often the decoder ran."""

    ids: jax.Array
    log_prob: jax.Array
    mask: jax.Array
    complete: jax.Array
    suffix: Cache
    rounds: jax.Array

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
    return jnp.where(_rank(logits) < _nucleus(logits, top_p), MASKED, logits)


def _rank(x):
    """float32 -> int32 in the same order."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.int32)  # -0.0 is 0.0
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _nucleus(logits, top_p):
    """Rank [..., 1] of the smallest logit that stays: what lies below it has together at most 1 - top_p of the mass.

    Found by halving the range of ranks 32 times: exact, and a vocabulary is read, not sorted, for every id."""
    p, rank = jax.nn.softmax(logits, axis=-1), _rank(logits)

    def halve(_, ends):
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, without overflow
        mass = jnp.sum(jnp.where(rank <= middle, p, 0.0), axis=-1, keepdims=True)
        stays = mass > 1 - top_p
        return jnp.where(stays, low, middle + 1), jnp.where(stays, middle, high)

    ends = rank.min(axis=-1, keepdims=True), rank.max(axis=-1, keepdims=True)
    return jax.lax.fori_loop(0, 32, halve, ends)[1]


def row_keys(keys, samples: int):
    """Keys [B] of scenes -> [B, K] of their samples: what a sample draws depends on neither B nor K."""
    return jax.vmap(lambda key: jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(samples)))(
        keys
    )


def draw(
    grammar: Grammar, params, hidden, *, rows, since, index, temperature, greedy: bool, top_k, top_p, forced
):  # fmt: skip
    """Ids int32 [B, K, N] and their log-probabilities float32 from the states hidden [B, K, N, D] that predict them.

    rows: keys [B, K]; since, index: int [B, K, N], what the grammar asks for. The id at an index is drawn with a key of
    its own, whatever else is drawn in the same call."""
    allowed = grammar.allowed(since, index)
    logits = alpamayo.logits(params, hidden)
    numbers = jnp.arange(logits.shape[-1])
    logits = jnp.where(inside(numbers, allowed), logits if greedy else logits / temperature, MASKED)
    logits = truncate(logits, top_k, top_p)
    if greedy:
        ids = jnp.argmax(logits, axis=-1)
    else:
        one = lambda key, i, row: jax.random.categorical(jax.random.fold_in(key, i), row)
        ids = jax.vmap(jax.vmap(jax.vmap(one, (None, 0, 0))))(rows, index, logits)
    if forced is not None:
        ids = jnp.where(forced[index] >= 0, forced[index], ids)
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return ids.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, axis=-1)


def stored(own: Cache, like: Cache) -> Cache:
    """Keys and values in the order and dtype that a cache keeps them in."""
    return jax.tree.map(lambda new, kept: new.astype(kept.dtype), own.by_head(), like)


def after(place, hidden):
    """`place` int [...], but known only when `hidden` is: what is written there is written after the cache was read.
    XLA cannot know that by itself, and copies the whole cache for every token."""
    last = jax.lax.bitcast_convert_type(hidden[(0,) * hidden.ndim].astype(jnp.float32), jnp.int32)
    return jax.lax.clamp(place, jnp.broadcast_to(last, place.shape), place)


def ended_itself(grammar: Grammar, ids):
    """Which completions ids int [..., L] ended within their limits, without being cut or made to end: bool [...]."""
    ended = (ids == grammar.end()).any(axis=-1)
    if not grammar.strict:
        return ended
    return ended & (jnp.argmax(ids == grammar.cot_end, axis=-1) < grammar.reasoning)


@functools.partial(jax.jit, static_argnames=("config", "grammar", "samples", "length", "greedy", "top_k"))
def sample(
    config: ModelConfig, grammar: Grammar, params, prefix: Prefix, keys, *, samples: int, length: int,
    temperature=1.0, greedy: bool = False, top_k: int | None = None, top_p=None, forced=None, limit=None,
) -> Completions:  # fmt: skip
    """K = `samples` completions of at most `length` ids behind each of B prefixes.

    keys: [B] random keys. greedy ignores temperature and keys. forced: int32 [L] ids to take where not negative.
    limit: int, stop after so many ids (at most `length`). Rows keep `grammar`; its log-probabilities come along.
    """
    shape = (prefix.length.shape[0], samples, length)
    every = lambda x: jnp.broadcast_to(x, (*shape[:2], 1))
    rows = row_keys(keys, samples)
    limit = length if limit is None else jnp.minimum(limit, length)

    def body(s: _State) -> _State:
        ids, log_prob = draw(
            grammar, params, s.hidden, rows=rows, since=s.since[..., None], index=every(s.step),
            temperature=temperature, greedy=greedy, top_k=top_k, top_p=top_p, forced=forced,
        )  # fmt: skip
        ids = jnp.where(s.done[..., None], grammar.pad, ids)
        positions = jnp.broadcast_to(prefix.next_position[:, None, None] + s.step, (3, *ids.shape))
        past = Past(prefix.cache, prefix.length, s.suffix, jnp.full(shape[:2], s.step))
        hidden, own = alpamayo.decode(config, params, alpamayo.embed(params, ids), positions, past)
        place = after(s.step, hidden)
        put = lambda cache, new: jax.lax.dynamic_update_slice_in_dim(cache, new, place, axis=-2)
        write = lambda row, new: jax.lax.dynamic_update_slice_in_dim(row, new, s.step, axis=2)
        open_ = ~s.done[..., None]
        return _State(
            s.step + 1, write(s.ids, ids), write(s.log_prob, jnp.where(open_, log_prob, 0.0)), write(s.mask, open_),
            hidden, jax.tree.map(put, s.suffix, stored(own, s.suffix)), grammar.since(s.since, ids)[..., -1],
            s.done | grammar.ended(ids[..., 0]),
        )  # fmt: skip

    start = _State(
        jnp.zeros((), jnp.int32), jnp.full(shape, grammar.pad, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool),
        jnp.broadcast_to(prefix.hidden[:, None, None], (*shape[:2], 1, prefix.hidden.shape[-1])),
        prefix.cache.room(samples, length), jnp.zeros(shape[:2], jnp.int32), jnp.zeros(shape[:2], bool),
    )  # fmt: skip
    end = jax.lax.while_loop(lambda s: (s.step < limit) & ~s.done.all(), body, start)
    return Completions(end.ids, end.log_prob, end.mask, ended_itself(grammar, end.ids), end.suffix, end.step)
