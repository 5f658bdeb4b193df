"""The kernels of a target, bound to block sizes; a target's modules are imported when they are first asked for."""

import functools

from ar1_kernels import chunked
from ar1_kernels.packed import Engine


@functools.cache  # one object for one choice, so that jit meets it again
def attention(backend: str, interpret: bool = False, blocks=None) -> Engine:
    """Kernels of "pallas_tpu" or "pallas_gpu". blocks: the target's own sizes (hashable), None: from its table."""
    if backend == "pallas_tpu":
        from ar1_kernels.tpu import flash, shared
    else:
        from ar1_kernels.gpu import flash, shared
    bound = {"interpret": interpret, "blocks": blocks}
    return Engine(*(functools.partial(f, **bound) for f in (flash.forward, flash.backward, shared.forward)))


def refusals(dtype, width: int, kind: str) -> dict:
    """Pallas back-end -> function that says why its attention kernels cannot do this on a device of `kind`, or None."""

    def tpu():
        from ar1_kernels.tpu import flash

        return flash.refusal(dtype, width, kind)

    def gpu():
        from ar1_kernels.gpu import flash

        return flash.refusal(dtype, width, kind)

    return {"pallas_tpu": tpu, "pallas_gpu": gpu}


@functools.cache
def log_prob(backend: str, interpret: bool = False, blocks=None) -> chunked.Engine:
    """Kernels of `linear_log_prob`; on a TPU the forward pass reads the whole weight where it lies."""
    if backend == "pallas_tpu":
        from ar1_kernels.tpu import log_prob as kernels
    else:
        from ar1_kernels.gpu import log_prob as kernels
    bound = (
        functools.partial(f, interpret=interpret, blocks=blocks) for f in (kernels.stats, kernels.cotangent)
    )
    return chunked.Engine(*bound, whole=backend == "pallas_tpu")


def log_prob_refusals(hidden, weight, kind: str) -> dict:
    """Pallas back-end -> function that says why its kernels cannot do this `linear_log_prob`, or None."""

    def by(target):
        if hidden.dtype != weight.dtype:
            return f"its kernels take one dtype, hidden is {hidden.dtype.name} and weight {weight.dtype.name}"
        if target == "tpu":
            from ar1_kernels.tpu import log_prob as kernels
        else:
            from ar1_kernels.gpu import log_prob as kernels
        return kernels.refusal(hidden.dtype, hidden.shape[1], kind)

    return {"pallas_tpu": functools.partial(by, "tpu"), "pallas_gpu": functools.partial(by, "gpu")}
