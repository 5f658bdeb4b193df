"""Which ids a completion may hold at each position: one rule for sampler and learner.

    reasoning (at most `reasoning` ids) <|cot_end|> <|traj_future_start|> [2A action ids <|traj_future_end|>]

An allowed set is a half-open interval [first, second) of ids, wrapping round where first > second. Forced ids are
intervals of one id: their log-probability is exactly 0 and carries no gradient. Without `strict` (the releases) only
the trajectory ids are forbidden until the trigger, which stands wherever it likes, and the end of the turn ends a
completion too.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Grammar:
    """Ids of one vocabulary. words: interval allowed inside the reasoning (strict) or everywhere (not strict).

    actions: one interval per position of a control, in turn (acceleration, curvature); controls: how many controls
    follow the trigger (0 = end there). reasoning: most ids before <|cot_end|>. end_of_turn ends one that is not
    strict.
    """

    words: tuple[int, int]
    cot_end: int
    trigger: int
    future_end: int
    end_of_turn: int
    pad: int
    actions: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    controls: int = 0
    reasoning: int = 0
    strict: bool = True

    @property
    def length(self) -> int:
        """Longest completion, in ids."""
        return self.reasoning + 2 + (2 * self.controls + 1 if self.controls else 0)

    @property
    def mark(self) -> int:
        """The id that ends the free part; behind it everything is in its place."""
        return self.cot_end if self.strict else self.trigger

    def since(self, before, ids):
        """How many positions lie behind the first mark, int32 [..., L + 1]: at the first of ids int [..., L], where
        there are `before` int [...], up to the place after the last; 0 up to and including the mark."""
        seen = (jnp.cumsum(ids == self.mark, axis=-1) > 0) | (before > 0)[..., None]
        steps = jnp.cumsum(seen, axis=-1, dtype=jnp.int32)
        return before[..., None] + jnp.pad(steps, [(0, 0)] * (steps.ndim - 1) + [(1, 0)])

    def allowed(self, since, index):
        """Interval int32 [..., 2] at position `index`; since: int [...], positions behind the mark, 0 before it."""
        only = lambda token: jnp.asarray([token, token + 1], jnp.int32)
        words = jnp.asarray(self.words, jnp.int32)
        first, second = (jnp.asarray(interval, jnp.int32) for interval in self.actions)
        pick = lambda condition, a, b: jnp.where(jnp.asarray(condition)[..., None], a, b)
        behind = since - 2 if self.strict else since - 1  # since the trigger
        action = pick(behind % 2 == 0, first, second)
        after = pick(behind < 2 * self.controls, action, only(self.future_end))
        if not self.strict:
            return pick(since == 0, words, after)
        reasoning = pick(index >= self.reasoning, only(self.cot_end), words)
        return pick(since == 0, reasoning, pick(since == 1, only(self.trigger), after))

    def end(self):
        """The id that ends a completion that is whole."""
        return self.future_end if self.controls else self.trigger

    def ended(self, ids):
        """Does a completion end with this id? bool, of the shape of ids."""
        whole = ids == self.end()
        return whole if self.strict else whole | (ids == self.end_of_turn)


def allowed(grammar: Grammar, ids):
    """Interval of allowed ids at every position of completions ids int [..., L] -> int32 [..., L, 2]."""
    since = grammar.since(jnp.zeros(ids.shape[:-1], jnp.int32), ids)[..., :-1]
    return grammar.allowed(since, jnp.arange(ids.shape[-1]))


def mask(grammar: Grammar, ids):
    """Which positions of ids int [..., L] belong to the completion: up to and including its end. bool [..., L]."""
    ended = grammar.ended(ids)
    return jnp.cumsum(ended, axis=-1) - ended.astype(jnp.int32) == 0


def trigger_length(grammar: Grammar, ids):
    """Tokens up to and including the first trigger of ids int [..., L], and whether there is one: int, bool [...]."""
    found = ids == grammar.trigger
    return jnp.argmax(found, axis=-1) + 1, found.any(axis=-1)


def action_ids(grammar: Grammar, ids):
    """The 2A ids behind the first trigger and whether the completion is whole: int32 [..., 2A], bool [...].

    Whole: a trigger, 2A ids each in its channel's interval, then <|traj_future_end|>, inside the L positions.
    """
    count = 2 * grammar.controls
    length, found = trigger_length(grammar, ids)
    index = length[..., None] + jnp.arange(count + 1)
    taken = jnp.take_along_axis(ids, jnp.minimum(index, ids.shape[-1] - 1), axis=-1)
    lows = jnp.asarray([interval[0] for interval in grammar.actions] * grammar.controls)
    highs = jnp.asarray([interval[1] for interval in grammar.actions] * grammar.controls)
    inside = (taken[..., :-1] >= lows) & (taken[..., :-1] < highs)
    once = jnp.sum(ids == grammar.trigger, axis=-1) == 1
    whole = found & once & inside.all(axis=-1) & (taken[..., -1] == grammar.future_end)
    return taken[..., :-1], whole & (index[..., -1] < ids.shape[-1])
