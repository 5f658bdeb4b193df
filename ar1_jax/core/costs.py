"""What an operation costs, from shapes alone: FLOPs and bytes between memory and processor, forward and backward.

A product of [M, K] and [K, N] is 2MKN FLOPs; bytes count each operand and each result once, as if caches held
everything in between. Stage costs (a prefill, a decode step, an update) are sums of these and live beside the model.
Elementwise work is counted with a small fixed number of FLOPs an element, as XLA does for cheap operations. Those of
attention are counted beside its kernels."""

import math

from ar1_kernels.counts import SOFTMAX_FLOPS, Cost, attention, attention_backward, pairs

__all__ = [
    "NORM_FLOPS", "SOFTMAX_FLOPS", "Cost", "attention", "attention_backward", "elementwise", "gather", "matmul",
    "matmul_backward", "norm", "pairs", "total",
]  # fmt: skip
NORM_FLOPS = 4  # an element of RMS norm: square, add, scale, weight (the rsqrt of a row is not counted)


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
