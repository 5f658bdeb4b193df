"""What the operations cost, from shapes alone: FLOPs, bytes between memory and chip, and the time no chip goes below.

B scenes (or rows), N queries, M keys, K sequences a scene, S prefix, L suffix, H query heads, J kv heads, E head width,
D features, V vocabulary; `width` is bytes a number. A product of [M, K] and [K, N] is 2MKN FLOPs, only pairs of query
and key that see each other count, and bytes are the least that any kernel moves: each operand and each result once.
The other ways beside them (scores, repeated prefix, whole logits) move what those hold in memory as well. How often
our kernels fetch a block again is in `traffic`. A roofline is an estimate of a floor, not a measurement.
"""

import dataclasses
from typing import NamedTuple

SOFTMAX_FLOPS = 5  # an element: maximum, subtract, exponential, add, divide
FLOAT32 = 4  # bytes: scores, logits and log-sum-exps


class Chip(NamedTuple):
    """FLOP/s of dense bf16 products, bytes/s and bytes of memory."""

    flops: float
    bandwidth: float
    memory: float


CHIPS = {  # as their makers state them
    "TPU v5e": Chip(197e12, 819e9, 16e9),
    "TPU v5p": Chip(459e12, 2765e9, 95e9),
    "TPU v6e": Chip(918e12, 1638e9, 32e9),
    "TPU7x": Chip(2307e12, 7400e9, 206e9),
    "A100 80 GB": Chip(312e12, 2039e9, 80e9),
    "H100": Chip(989e12, 3352e9, 80e9),
    "H200": Chip(989e12, 4800e9, 141e9),
    "B200": Chip(2250e12, 7672e9, 180e9),
    "RTX PRO 6000": Chip(504e12, 1792e9, 96e9),
    "Jetson Thor": Chip(258e12, 273e9, 128e9),
}
REACHED = {"H200": Chip(769e12, 4300e9, 141e9)}  # an 8192³ bf16 product (up to 798) and a copy, on one H200


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs and bytes; costs add up, and `n * cost` is the cost of n of them."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times)

    __rmul__ = __mul__

    @property
    def intensity(self) -> float:
        """FLOPs a byte: above a chip's flops / bandwidth its products are the limit, below it its memory."""
        return self.flops / self.bytes

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Lower bound of the time on a machine with these peaks (roofline)."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def pairs(queries: int, keys: int, causal: bool) -> float:
    """Query-key pairs that count: all, or under a causal mask those up to query n + keys - queries."""
    if not causal:
        return float(queries * keys)
    return queries * (keys - queries) + queries * (queries + 1) / 2.0


def attention(
    batch: int, queries: int, keys: int, heads: int, kv_heads: int, head_width: int, *, causal: bool, width: int = 4,
    scores: bool = False, walks: int = 1,
) -> Cost:  # fmt: skip
    """Grouped-query attention, q [B, N, H, E], k and v [B, M, J, E] -> [B, N, H, E]; reads q, k, v, writes the output.

    scores: the way that holds them, [B, H, N, M] masked or not: float32 scores written and read, weights likewise."""
    live = batch * heads * pairs(queries, keys, causal)
    moved = width * batch * head_width * (2 * queries * heads + 2 * walks * keys * kv_heads)
    if scores:
        live = batch * heads * queries * keys
        moved += 2 * (FLOAT32 + width) * live
    return Cost(live * (4.0 * head_width + SOFTMAX_FLOPS), moved)


def attention_backward(
    batch: int, queries: int, keys: int, heads: int, kv_heads: int, head_width: int, *, causal: bool, width: int = 4,
    scores: bool = False,
) -> Cost:  # fmt: skip
    """Gradients of q, k, v with scores computed again: five products instead of two; reads q, k, v, output and its
    gradient, writes three gradients.

    scores: the way that kept its weights, four products; reads them twice, writes and reads twice their gradient."""
    live = batch * heads * pairs(queries, keys, causal)
    moved = width * batch * head_width * (4 * queries * heads + 4 * keys * kv_heads)
    products = 5
    if scores:
        live, products = batch * heads * queries * keys, 4
        moved += 5 * width * live
    return Cost(live * (2.0 * products * head_width + 2 * SOFTMAX_FLOPS), moved)


def shared_prefix(
    batch: int, samples: int, queries: int, prefix: int, suffix: int, own: int, heads: int, kv_heads: int,
    head_width: int, *, causal: bool, width: int = 4, repeated: bool = False,
) -> Cost:  # fmt: skip
    """K sequences of N queries on one prefix of S keys, their own L suffix keys and `own` (0 or N) keys of their own.

    repeated: the way that holds a copy of the prefix for each sequence, and reads it; making it is not counted."""
    parts = shared_prefix_parts(batch, samples, queries, prefix, suffix, own, causal, repeated)
    live = heads * sum(rows * pairs(n, keys, mask) for rows, n, keys, mask in parts)
    keys = sum(rows * keys for rows, _, keys, _ in parts)
    moved = head_width * (2 * batch * samples * queries * heads + 2 * keys * kv_heads)
    return Cost(live * (4.0 * head_width + SOFTMAX_FLOPS), width * moved)


def shared_prefix_backward(
    batch: int, samples: int, queries: int, prefix: int, suffix: int, own: int, heads: int, kv_heads: int,
    head_width: int, *, causal: bool, width: int = 4, repeated: bool = False,
) -> Cost:  # fmt: skip
    """Gradients of `shared_prefix`, scores computed again; repeated: gradients of each copy of the prefix written."""
    parts = shared_prefix_parts(batch, samples, queries, prefix, suffix, own, causal, repeated)
    live = heads * sum(rows * pairs(n, keys, mask) for rows, n, keys, mask in parts)
    keys = sum(rows * keys for rows, _, keys, _ in parts)
    moved = head_width * (4 * batch * samples * queries * heads + 4 * keys * kv_heads)
    return Cost(live * (10.0 * head_width + 2 * SOFTMAX_FLOPS), width * moved)


def shared_prefix_parts(
    batch: int, samples: int, queries: int, prefix: int, suffix: int, own: int, causal: bool, repeated: bool
) -> list[tuple[int, int, int, bool]]:
    """The disjoint keys as plain attentions: (rows, queries of a row, keys of a row, causal)."""
    each = batch * samples
    shared = (each, queries, prefix, False) if repeated else (batch, samples * queries, prefix, False)
    return [shared, (each, queries, suffix, False), *([(each, queries, own, causal)] if own else [])]


def log_prob(
    rows: int, features: int, vocabulary: int, *, width: int = 4, whole: bool = False, walks: int = 1
) -> Cost:
    """Log-probabilities of N labels: hidden [N, D] on weight [D, V], labels in, a float32 out a row.

    whole: the way that holds the logits [N, V], float32, written once and read once."""
    logits = rows * vocabulary
    moved = width * features * (rows + walks * vocabulary) + 2 * FLOAT32 * rows
    moved += 2 * FLOAT32 * logits if whole else 0
    return Cost(logits * (2.0 * features + SOFTMAX_FLOPS), moved)


def log_prob_backward(
    rows: int, features: int, vocabulary: int, *, width: int = 4, whole: bool = False
) -> Cost:
    """Gradients of hidden and weight, logits computed again: three products; reads both, writes both gradients.

    whole: the way that kept its logits: two products; reads them, writes their gradient, and reads it for each."""
    logits = rows * vocabulary
    moved = 2 * width * features * (rows + vocabulary) + 2 * FLOAT32 * rows
    moved += (FLOAT32 + 3 * width) * logits if whole else 0
    return Cost(logits * (2.0 * features * (2 if whole else 3) + SOFTMAX_FLOPS), moved)


def log_prob_backward_in_chunks(
    rows: int, features: int, vocabulary: int, *, width: int = 4, chunks: int, walks: int = 1
) -> Cost:
    """`log_prob_backward` as `chunked` does it: the gradient of a chunk's logits exists, its products are XLA's.

    A chunk of the weight is cut out (read, written), read by the kernel `walks` times and by one product; its gradient
    is read, added to and written. Gradients of the logits are written once and read twice. A chunk reads hidden for the
    kernel and for one product, and reads and writes the float32 sum of hidden's gradient."""
    least = log_prob_backward(rows, features, vocabulary, width=width)
    weight = width * features * vocabulary * (2 + walks + 1 + 2)
    hidden = rows * features * (chunks * (2 * width + 2 * FLOAT32) + width)
    return Cost(least.flops, weight + 3 * width * rows * vocabulary + hidden)
