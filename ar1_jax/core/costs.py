"""What an operation costs, from shapes alone: FLOPs and bytes between memory and processor, forward and backward.

A product of [M, K] and [K, N] is 2MKN FLOPs; bytes count each operand and each result once, as if caches held
everything in between. Stage costs (a prefill, a decode step, an update) are sums of these and live beside the model.
Elementwise work is counted with a small fixed number of FLOPs an element, as XLA does for cheap operations."""

import dataclasses
import math

NORM_FLOPS = 4  # an element of RMS norm: square, add, scale, weight (the rsqrt of a row is not counted)
SOFTMAX_FLOPS = 5  # an element: maximum, subtract, exponential, add, divide


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

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Lower bound of the time on a machine with these peaks (roofline)."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def total(costs) -> Cost:
    """Sum of any number of costs."""
    return sum(costs, Cost())


def matmul(
    rows: int, inner: int, columns: int, *, batch: int = 1, width: int = 4, shared: bool = True
) -> Cost:
    """[batch, rows, inner] x [inner, columns], numbers of `width` bytes. shared: one right side (a weight) for the
    whole batch; False: one each."""
    flops = 2.0 * batch * rows * inner * columns
    right = inner * columns * (1 if shared else batch)
    return Cost(flops, width * (batch * rows * (inner + columns) + right))


def matmul_backward(
    rows: int, inner: int, columns: int, *, batch: int = 1, width: int = 4, weight: bool = True
) -> Cost:
    """Gradients of `matmul`: of the left side, and of the weight unless it is frozen."""
    left = matmul(rows, columns, inner, batch=batch, width=width)
    right = matmul(inner, batch * rows, columns, width=width) if weight else Cost()
    return left + right


def pairs(queries: int, keys: int, causal: bool) -> float:
    """Query-key pairs that count: all, or under a causal mask those up to query n + keys - queries."""
    if not causal:
        return float(queries * keys)
    return queries * (keys - queries) + queries * (queries + 1) / 2.0


def attention(
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    *,
    causal: bool,
    width: int = 4,
) -> Cost:
    """Grouped-query attention that never writes its scores: q [B, N, H, E], k and v [B, M, J, E] -> [B, N, H, E]."""
    scores = batch * heads * pairs(queries, keys, causal)
    moved = batch * head_width * (2 * queries * heads + 2 * keys * kv_heads)
    return Cost(scores * (4.0 * head_width + SOFTMAX_FLOPS), width * moved)


def attention_backward(
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    *,
    causal: bool,
    width: int = 4,
) -> Cost:
    """Gradients of q, k, v with scores computed again: five products instead of two; reads q, k, v, output and its
    gradient, writes three gradients."""
    scores = batch * heads * pairs(queries, keys, causal)
    moved = batch * head_width * (4 * queries * heads + 4 * keys * kv_heads)
    return Cost(scores * (10.0 * head_width + 2 * SOFTMAX_FLOPS), width * moved)


def norm(rows: int, features: int, *, width: int = 4) -> Cost:
    """RMS norm of [rows, features] with its weight."""
    return Cost(NORM_FLOPS * rows * features, width * (2 * rows * features + features))


def gather(rows: int, features: int, *, width: int = 4) -> Cost:
    """Rows of a table: read and written, no arithmetic."""
    return Cost(0.0, width * 2 * rows * features)


def elementwise(*shape: int, flops: float = 1.0, operands: int = 1, width: int = 4) -> Cost:
    """`operands` arrays of one shape in, one out, `flops` for each element."""
    elements = math.prod(shape)
    return Cost(flops * elements, width * elements * (operands + 1))
