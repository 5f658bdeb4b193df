"""The kernels of a target, bound to block sizes; a target's modules are imported when they are first asked for."""

import functools

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
