"""Drafts: guessed ids go through the model several at once, and those stay that plain sampling draws as well.

Every id of a completion is drawn with a key of its own place (scene, sample, index), so it can be drawn behind a guess
before the guess is known to hold. A guess stays where the draw equals it: with probability p(guess), otherwise the draw
has the distribution p without the guess, renormalised. That is the exact rejection rule for a draft that is one id
(arXiv 2211.17192, section 2.3), and one key gives the completions of plain sampling, whatever was guessed.

Guesses are looked up: where the last ids of a row stand in an earlier text (the reasonings of the previous frame, the
prompt) or in the row's own text, what followed there is guessed. B scenes, K samples, L completion room, M ids of
earlier text, W guesses a round, N = W + 1, D width, V vocabulary.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import alpamayo
from ar1_jax.models.alpamayo import Prefix
from ar1_jax.models.config import ModelConfig
from ar1_jax.models.decoder import Cache, Past
from ar1_jax.models.grammar import Grammar
from ar1_jax.policy import sampling

CONTEXT = 3  # ids of the row that are looked for; more of them found count more than a near place
NOTHING = -1  # in a text: no id


@flax.struct.dataclass
class Draft:
    """Earlier text to look up. text: int32 [B, M], -1 where nothing is; place: int32 [M], the index in a completion
    that each id had (negative: before it). Among equally good finds the one nearest in place is taken."""

    text: jax.Array
    place: jax.Array


def of_completions(completions: Sequence[tuple], length: int) -> Draft:
    """Earlier completions, (ids int [G, n], lengths [G]) a scene, as G rows of L = `length` ids; on the host."""
    group = max(len(lengths) for _, lengths in completions)
    text = np.full((len(completions), group, length), NOTHING, np.int32)
    for scene, (ids, lengths) in zip(text, completions, strict=True):
        ids = np.asarray(ids)[:, :length]
        live = np.arange(ids.shape[1]) < np.asarray(lengths)[:, None]
        scene[: len(ids), : ids.shape[1]] = np.where(live, ids, NOTHING)
    place = np.tile(np.arange(length, dtype=np.int32), group)
    return Draft(jnp.asarray(text.reshape(len(text), -1)), jnp.asarray(place))


def of_prompt(prompt: alpamayo.Prompt) -> Draft:
    """The prompts' own ids, as far as they are text: [B, S]."""
    size = prompt.input_ids.shape[1]
    live = (jnp.arange(size) < prompt.length[:, None]) & (prompt.image_index < 0)
    return Draft(jnp.where(live, prompt.input_ids, NOTHING), jnp.arange(size) - size)


def look_up(draft: Draft, ids, count, width: int):
    """What followed the best find of the last ids: int32 [B, K, W], some id where nothing is found.

    ids: int32 [B, K, L], of which `count` int [B, K] (at least 1) are known."""
    batch, samples, length = ids.shape
    own = jnp.where(jnp.arange(length) < count[..., None], ids, NOTHING)
    earlier = jnp.broadcast_to(draft.text[:, None], (batch, samples, draft.text.shape[1]))
    text = jnp.concatenate([earlier, own], axis=-1)
    place = jnp.concatenate([draft.place, jnp.arange(length)])
    size = text.shape[-1]
    found, alike = jnp.zeros(text.shape, jnp.int32), jnp.ones(text.shape, bool)
    for back in range(CONTEXT):
        last = jnp.take_along_axis(ids, jnp.maximum(count - 1 - back, 0)[..., None], axis=-1)
        there = jnp.pad(text, ((0, 0), (0, 0), (back, 0)), constant_values=NOTHING)[..., :size]
        alike = alike & (there == last) & (count > back)[..., None]
        found = found + alike
    usable = jnp.pad(text[..., 1:] >= 0, ((0, 0), (0, 0), (0, 1)))  # something follows
    away = jnp.abs(place - (count[..., None] - 1))
    best = jnp.argmax(jnp.where(usable, found * 2 * (size + length) - away, -(2**30)), axis=-1)
    following = best[..., None] + 1 + jnp.arange(width)
    return jnp.maximum(jnp.take_along_axis(text, jnp.minimum(following, size - 1), axis=-1), 0)


@flax.struct.dataclass
class _State:
    """count: ids drawn, int [B, K]; fed: those among them that the suffix holds; rounds: calls of the decoder."""

    rounds: jax.Array
    ids: jax.Array
    log_prob: jax.Array
    suffix: Cache
    count: jax.Array
    fed: jax.Array
    since: jax.Array
    done: jax.Array


@functools.partial(
    jax.jit, static_argnames=("config", "grammar", "samples", "length", "greedy", "top_k", "width")
)
def sample(
    config: ModelConfig, grammar: Grammar, params, prefix: Prefix, keys, draft: Draft, *, samples: int, length: int,
    width: int, temperature=1.0, greedy: bool = False, top_k: int | None = None, top_p=None, forced=None, limit=None,
) -> sampling.Completions:  # fmt: skip
    """`sampling.sample` with the same arguments and the same result, in fewer calls of the decoder: each round reads a
    row's last id and `width` guesses behind it. Rows advance each by as many ids as hold."""
    shape = (prefix.length.shape[0], samples, length)
    limit = length if limit is None else jnp.minimum(limit, length)
    rows = sampling.row_keys(keys, samples)
    draw = functools.partial(
        sampling.draw, grammar, params, rows=rows, temperature=temperature, greedy=greedy, top_k=top_k, top_p=top_p,
        forced=forced,
    )  # fmt: skip
    steps = jnp.arange(width + 1)

    def body(s: _State) -> _State:
        last = jnp.take_along_axis(s.ids, s.count[..., None] - 1, axis=-1)
        guess = look_up(draft, s.ids, s.count, width)
        ids = jnp.concatenate([last, guess], axis=-1)
        at = s.fed[..., None] + steps
        positions = jnp.broadcast_to(prefix.next_position[:, None, None] + at, (3, *at.shape))
        past = Past(prefix.cache, prefix.length, s.suffix, s.fed)
        hidden, own = alpamayo.decode(config, params, alpamayo.embed(params, ids), positions, past)
        put = functools.partial(_put, at=sampling.after(at, hidden))
        index = s.count[..., None] + steps
        since = grammar.since(s.since, guess)
        token, log_prob = draw(hidden, since=since, index=index)
        ended, holds = grammar.ended(token), token[..., :-1] == guess
        behind = jnp.cumprod(holds & ~ended[..., :-1], axis=-1) > 0
        kept = jnp.concatenate([jnp.ones_like(ended[..., :1]), behind], axis=-1)
        kept = kept & (index < limit) & ~s.done[..., None]
        count = s.count + kept.sum(axis=-1)
        done = s.done | (kept & ended).any(axis=-1) | (count >= limit)
        fed = jnp.minimum(s.fed + 1 + (kept[..., :-1] & holds).sum(axis=-1), count)
        return _State(
            s.rounds + 1, _write(s.ids, token, index, kept), _write(s.log_prob, log_prob, index, kept),
            jax.tree.map(put, s.suffix, sampling.stored(own, s.suffix)), count, fed,
            jnp.take_along_axis(grammar.since(s.since, token), (count - s.count)[..., None], axis=-1)[..., 0], done,
        )  # fmt: skip

    hidden = jnp.broadcast_to(prefix.hidden[:, None, None], (*shape[:2], 1, prefix.hidden.shape[-1]))
    nothing = jnp.zeros(shape[:2], jnp.int32)
    token, log_prob = draw(hidden, since=nothing[..., None], index=nothing[..., None])
    start = _State(
        nothing[0, 0], jnp.full(shape, grammar.pad, jnp.int32).at[..., :1].set(token),
        jnp.zeros(shape).at[..., :1].set(log_prob), prefix.cache.room(samples, length), nothing + 1,
        nothing, grammar.since(nothing, token)[..., -1], grammar.ended(token[..., 0]) | (1 >= limit),
    )  # fmt: skip
    end = jax.lax.while_loop(lambda s: (~s.done | (s.fed < s.count)).any(), body, start)
    mask = jnp.arange(length) < end.count[..., None]
    complete = sampling.ended_itself(grammar, end.ids)
    return sampling.Completions(end.ids, end.log_prob, mask, complete, end.suffix, end.rounds)


def _write(array, new, index, kept):
    """array [B, K, L] with new [B, K, N] put at `index` where it is kept."""
    batch, samples, length = array.shape
    row, sample = jnp.arange(batch)[:, None, None], jnp.arange(samples)[:, None]
    return array.at[row, sample, jnp.where(kept, index, length)].set(new, mode="drop")


def _put(cache, new, at):
    """Cache [..., B, K, J, L, E] with keys or values [..., B, K, J, N, E] put at the places int [B, K, N]; those
    of guesses that do not hold are overwritten before they are read."""
    one = lambda cache, new, at: cache.at[:, at].set(new, mode="drop")
    rows = jax.vmap(jax.vmap(one))
    return rows(cache, new, at) if cache.ndim == 5 else jax.vmap(rows, (0, 0, None))(cache, new, at)
