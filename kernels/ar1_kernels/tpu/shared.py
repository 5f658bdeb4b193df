"""Attention of K sequences on one prefix, each one's suffix and its own keys: one kernel, the prefix fetched once.

B scenes, J kv heads, K sequences a scene, N queries a sequence, R query heads a kv head, C = N·R rows of a sequence, S
prefix, L suffix keys, E head width. The grid walks (B, J, U, steps); the rows of all K sequences lie in VMEM (U > 1
parts of them where they do not fit), in groups of sequences. The steps of a part: every block of the prefix meets all
rows; then, group after group, a block of the suffixes of a group's sequences meets the rows of that group; then their
own keys do. One running softmax goes through all of them.

Sequences of many rows (expert, learner) are groups by themselves. Where sequences have few rows (decoding: R), a group
is several: a step then scores the keys of all of them against the rows of all of them and drops the pairs that do not
belong together, which is cheaper than a step for each. In both cases a key is seen by an interval of the group's rows.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ar1_kernels.tpu import blocks as _blocks
from ar1_kernels.tpu import flash
from ar1_kernels.tpu.blocks import LANES, SUBLANES, Blocks
from ar1_kernels.tpu.flash import Softmax, places


class Stream(NamedTuple):
    """Keys of single sequences, suffix or own: `blocks` steps a group, each `size` keys of every sequence of the group.

    slope: rows that a key's place shuts out below it: R under causality, else 0.
    """

    blocks: int
    size: int
    slope: int


class Plan(NamedTuple):
    """parts · groups · sequences >= K; a group's rows, sequences · span (= C) and padding, are chunks · rows."""

    parts: int
    groups: int
    sequences: int
    span: int
    chunks: int
    rows: int
    prefix_blocks: int
    keys: int
    suffix: Stream | None
    own: Stream | None

    @property
    def height(self):
        """Rows of a group."""
        return self.chunks * self.rows

    @property
    def steps(self):
        return self.prefix_blocks + self.groups * sum(x.blocks for x in (self.suffix, self.own) if x)


def _plan(q, prefix_k, suffix_k, own_k, causal, sizes: Blocks) -> tuple[Plan, int]:
    """-> the cut and the bytes of VMEM it takes."""
    _, _, samples, span, _ = q.shape
    wide = q.dtype.itemsize
    room = max(1, min(sizes.rows // span, sizes.together // sizes.suffix))
    groups = -(-samples // room)
    sequences = -(-samples // groups)
    chunks = -(-sequences * span // sizes.rows)
    rows = flash.up(-(-sequences * span // chunks), SUBLANES)
    unit = LANES // math.gcd(sequences, LANES // SUBLANES)

    def stream(x, slope):
        blocks = -(-x.shape[3] // sizes.suffix)
        return Stream(blocks, flash.up(-(-x.shape[3] // blocks), unit), slope)

    suffix = None if suffix_k is None else stream(suffix_k, 0)
    own = None if own_k is None else stream(own_k, span // own_k.shape[3] if causal else 0)
    prefix_blocks = -(-prefix_k.shape[2] // sizes.keys)
    keys = flash.up(-(-prefix_k.shape[2] // prefix_blocks), LANES)
    widths = [keys, *(sequences * x.size for x in (suffix, own) if x)]
    # Every stream twice; six tiles; of the widest, the values without what is dead, and the vectors of its mask.
    fixed = 4 * LANES * wide * sum(widths) + (24 * rows + LANES * wide + 256) * max(widths)
    row_bytes = flash.forward_row_bytes(wide, wide)
    height = chunks * rows
    resident = sizes.resident or (_blocks.chip().vmem * 7 // 8 - fixed) // row_bytes
    parts = -(-groups // max(1, resident // height))
    per = -(-groups // parts)
    plan = Plan(parts, per, sequences, span, chunks, rows, prefix_blocks, keys, suffix, own)
    return plan, fixed + per * height * row_bytes


class Ahead(NamedTuple):
    """What lies in SMEM before a step begins, all int32.

    prefix [B·prefix blocks], suffix [B·parts·groups·blocks]: the block to hold at a step, counted from the first of its
    part; it stays where it is while steps see nothing. *_length [B] and [B·sequences of all groups]: live keys, 0 for a
    sequence that only fills a group.
    """

    prefix: jax.Array
    suffix: jax.Array
    prefix_length: jax.Array
    suffix_length: jax.Array
    own_length: jax.Array


def _look(plan: Plan, prefix_length, suffix_length, own_size: int, samples: int) -> Ahead:
    batch = prefix_length.shape[0]
    steps = lambda n: jnp.arange(n, dtype=jnp.int32)
    prefix = _held(steps(plan.prefix_blocks) * plan.keys < prefix_length[:, None])
    fill = plan.parts * plan.groups * plan.sequences - samples
    own_length = jnp.pad(jnp.full((batch, samples), own_size, jnp.int32), ((0, 0), (0, fill)))
    if plan.suffix is None:
        none = jnp.zeros((1,), jnp.int32)
        return Ahead(prefix.reshape(-1), none, prefix_length, none, own_length.reshape(-1))
    suffix_length = jnp.pad(suffix_length, ((0, 0), (0, fill)))
    longest = suffix_length.reshape(batch, plan.parts, plan.groups, plan.sequences).max(axis=3)
    live = steps(plan.suffix.blocks) * plan.suffix.size < longest[..., None]
    suffix = _held(live.reshape(batch, plan.parts, -1))
    return Ahead(*(x.reshape(-1) for x in (prefix, suffix, prefix_length, suffix_length, own_length)))


def _held(live):
    """Of each step, the last live one up to it, or the first live one: what stays in VMEM."""
    index = jnp.arange(live.shape[-1], dtype=jnp.int32)
    before = jax.lax.cummax(jnp.where(live, index, -1), axis=live.ndim - 1)
    return jnp.where(before < 0, jnp.argmax(live, axis=-1, keepdims=True), before).astype(jnp.int32)


def divide(n, by: int):
    """Quotient and remainder of a number that is not negative; // would ask for its sign, and that for the chip."""
    return jax.lax.div(n, jnp.int32(by)), jax.lax.rem(n, jnp.int32(by))


class Rows(NamedTuple):
    """The resident rows: q [X, E] and their softmax; chunk c of the part as a slice."""

    q: jax.Array
    softmax: Softmax
    size: int

    def at(self, c):
        return pl.ds(pl.multiple_of(c * self.size, SUBLANES), self.size)

    def meet(self, c, k, v, scale, live=None):
        self.softmax.absorb(self.at(c), self.q[self.at(c), :], k, v, scale, live)


def _meet_prefix(plan: Plan, scale, rows: Rows, k, v, length, block):
    """k, v [keys, E], block `block` of the prefix, live below `length`."""
    first = block * plan.keys
    every = plan.groups * plan.chunks

    @pl.when(first + plan.keys <= length)
    def _():
        jax.lax.fori_loop(0, every, lambda c, _: rows.meet(c, k[...], v[...], scale), None)

    @pl.when((first < length) & (first + plan.keys > length))
    def _():
        def chunk(c, _):
            # Behind the last live key there may be anything, and 0 · NaN is NaN.
            values = jnp.where(places(first, plan.keys, 0) < length, v[...], 0)
            rows.meet(c, k[...], values, scale, places(first, plan.keys, 1) < length)

        jax.lax.fori_loop(0, every, chunk, None)


def _meet_own(plan: Plan, stream: Stream, scale, rows: Rows, k, v, lengths, group, block):
    """k, v [sequences, size, E]: block `block` of each sequence of a group; lengths: its sequences' live keys."""
    first, size, span = block * stream.size, stream.size, plan.span
    key = places(0, plan.sequences * size, 1)
    low = jnp.zeros_like(key)  # the key is seen by rows low <= row < high of the group
    high = jnp.zeros_like(key)
    values = []
    for i, length in enumerate(lengths):
        place = key - i * size + first
        mine = (key >= i * size) & (key < (i + 1) * size)
        low = jnp.where(mine, i * span + place * stream.slope, low)
        high = jnp.where(mine & (place < length), (i + 1) * span, high)
        values.append(jnp.where(places(first, size, 0) < length, v[i], 0))
    keys = k[...].reshape(plan.sequences * size, k.shape[-1])
    values = jnp.concatenate(values, axis=0)

    def chunk(c, _):
        row = places(c * plan.rows, plan.rows, 0)
        rows.meet(group * plan.chunks + c, keys, values, scale, (row >= low) & (row < high))

    # Alone in its group, a sequence's rows before the block's first key see nothing of it.
    start = divide(first * stream.slope, plan.rows)[0] if plan.sequences == 1 else 0
    longest = functools.reduce(jnp.maximum, lengths)

    @pl.when(first < longest)
    def _():
        jax.lax.fori_loop(start, plan.chunks, chunk, None)


def _kernel(plan: Plan, scale, *refs):
    """Ahead in SMEM; q, out [X, E], X = groups · chunks · rows; prefix k, v [keys, E]; suffix and own k, v
    [sequences, size, E]; lse [groups · chunks, rows]."""
    ahead, refs = Ahead(*refs[: len(Ahead._fields)]), list(refs[len(Ahead._fields) :])
    q, prefix_k, prefix_v = (refs.pop(0) for _ in range(3))
    streams = [(x, refs.pop(0), refs.pop(0), y) for x, y in _streams(plan, ahead)]
    out, lse, *state = refs
    rows = Rows(q, Softmax(*state), plan.rows)
    scene, part, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    every = plan.groups * plan.chunks

    @pl.when(step == 0)
    def _():
        jax.lax.fori_loop(0, every, lambda c, _: rows.softmax.clear(rows.at(c)), None)

    _meet_prefix(plan, scale, rows, prefix_k, prefix_v, ahead.prefix_length[scene], step)
    begin = plan.prefix_blocks
    for stream, k, v, lengths in streams:
        here = step - begin

        @pl.when((here >= 0) & (here < plan.groups * stream.blocks))
        def _(stream=stream, k=k, v=v, lengths=lengths, here=here):
            group, block = divide(here, stream.blocks)
            sequence = ((scene * plan.parts + part) * plan.groups + group) * plan.sequences
            ends = [lengths[sequence + i] for i in range(plan.sequences)]
            _meet_own(plan, stream, scale, rows, k, v, ends, group, block)

        begin += plan.groups * stream.blocks

    @pl.when(step == plan.steps - 1)
    def _():
        def finish(c, _):
            mean, lse[pl.ds(c, 1), :] = rows.softmax.finish(rows.at(c))
            out[rows.at(c), :] = mean.astype(out.dtype)

        jax.lax.fori_loop(0, every, finish, None)


def _streams(plan: Plan, ahead: Ahead):
    pairs = ((plan.suffix, ahead.suffix_length), (plan.own, ahead.own_length))
    return [(stream, lengths) for stream, lengths in pairs if stream]


def _specs(plan: Plan, width: int):
    """Block specs of the inputs and of the outputs."""
    rows_at = lambda b, j, u, t, *_: (b, j, u, 0, 0)
    rows = pl.BlockSpec((None, None, None, plan.groups * plan.height, width), rows_at)
    vector = pl.BlockSpec((None, None, None, plan.groups * plan.chunks, plan.rows), rows_at)

    def prefix_at(b, j, u, t, *refs):
        # It ends on its last block and stays there while the other keys have their turn.
        step = jnp.minimum(t, plan.prefix_blocks - 1)
        return b, j, Ahead(*refs).prefix[b * plan.prefix_blocks + step], 0

    def stream_at(stream, begin, held):
        count = plan.groups * stream.blocks

        def index(b, j, u, t, *refs):
            step = jnp.clip(t - begin, 0, count - 1)
            step = Ahead(*refs).suffix[(b * plan.parts + u) * count + step] if held else step
            group, block = divide(step, stream.blocks)
            return b, u * plan.groups + group, j, block, 0

        return pl.BlockSpec((None, plan.sequences, None, stream.size, width), index)

    inputs = [rows, *[pl.BlockSpec((None, None, plan.keys, width), prefix_at)] * 2]
    begin = plan.prefix_blocks
    if plan.suffix:
        inputs += [stream_at(plan.suffix, begin, True)] * 2
        begin += plan.groups * plan.suffix.blocks
    if plan.own:
        inputs += [stream_at(plan.own, begin, False)] * 2
    return inputs, [rows, vector]


def forward(
    q, prefix_k, prefix_v, prefix_length, suffix_k, suffix_v, suffix_length, own_k, own_v, *, causal, scale,
    blocks: Blocks | None = None, interpret=False,
):  # fmt: skip
    """q [B, J, K, C, E] -> out [B, J, K, C, E] in q's dtype, log-sum-exp float32 [B, J, K, C].

    prefix_k, prefix_v [B, J, S, E], live below prefix_length int32 [B]; suffix_k, suffix_v [B, K, J, L, E], live below
    suffix_length int32 [B, K], or None all three; own_k, own_v [B, K, J, N, E] or None, causal: row c sees own keys up
    to c // R. A row without a live key gives 0 and MASKED. blocks, interpret: as in `flash.forward`.
    """
    batch, kv_heads, samples, span, width = q.shape
    sizes = blocks or _blocks.choose(samples * span, q.dtype)
    plan, need = _plan(q, prefix_k, suffix_k, own_k, causal, sizes)
    clip = lambda x, size: jnp.clip(jnp.asarray(x, jnp.int32), 0, size)
    ahead = _look(
        plan, clip(prefix_length, prefix_k.shape[2]),
        None if suffix_k is None else clip(suffix_length, suffix_k.shape[3]),
        0 if own_k is None else own_k.shape[3], samples,
    )  # fmt: skip
    in_specs, out_specs = _specs(plan, width)
    parts = (batch, kv_heads, plan.parts)
    resident = plan.groups * plan.height
    streams = [x for x in (suffix_k, suffix_v, own_k, own_v) if x is not None]
    seen = prefix_k.shape[2] * samples + sum(x.shape[3] for x in streams) // 2 * samples
    out, lse = pl.pallas_call(
        functools.partial(_kernel, plan, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(ahead),
            grid=(*parts, plan.steps),
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=Softmax.scratch(resident, width),
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*parts, resident, width), q.dtype),
            jax.ShapeDtypeStruct((*parts, plan.groups * plan.chunks, plan.rows), jnp.float32),
        ],
        compiler_params=flash.params(need),
        cost_estimate=pl.CostEstimate(
            flops=4 * batch * kv_heads * span * seen * width,
            transcendentals=batch * kv_heads * span * seen,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (q, q, prefix_k, prefix_v, *streams)),
        ),
        interpret=interpret,
        name="shared_prefix_forward",
    )(*ahead, _group(q, plan), prefix_k, prefix_v, *streams)  # fmt: skip
    lse = lse.reshape(*lse.shape[:3], resident)
    return _ungroup(out, plan, samples), _ungroup(lse[..., None], plan, samples)[..., 0]


def _group(q, plan: Plan):
    """[B, J, K, C, E] -> [B, J, parts, X, E], zeros in place of missing sequences and rows."""
    batch, kv_heads, samples, span, width = q.shape
    groups = plan.parts * plan.groups
    fill = groups * plan.sequences - samples
    q = jnp.pad(q, ((0, 0), (0, 0), (0, fill), (0, 0), (0, 0)))
    q = q.reshape(batch, kv_heads, groups, plan.sequences * span, width)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, plan.height - q.shape[3]), (0, 0)))
    return q.reshape(batch, kv_heads, plan.parts, plan.groups * plan.height, width)


def _ungroup(x, plan: Plan, samples: int):
    """[B, J, parts, X, E] -> [B, J, K, C, E]."""
    batch, kv_heads, _, _, width = x.shape
    x = x.reshape(batch, kv_heads, plan.parts * plan.groups, plan.height, width)
    x = x[:, :, :, : plan.sequences * plan.span]
    return x.reshape(batch, kv_heads, -1, plan.span, width)[:, :, :samples]
