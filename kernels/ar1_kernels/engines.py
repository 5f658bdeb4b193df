"""The kernels of a target, bound to block sizes; a target's modules are imported when they are first asked for."""

import functools
import importlib

from ar1_kernels import chunked
from ar1_kernels.packed import Engine

PALLAS = ("pallas_tpu", "pallas_gpu")


def _module(backend: str, name: str):
    """ar1_kernels.tpu.NAME or ar1_kernels.gpu.NAME."""
    return importlib.import_module(f"ar1_kernels.{backend.removeprefix('pallas_')}.{name}")


@functools.cache  # one object for one choice, so that jit meets it again
def attention(backend: str, interpret: bool = False, blocks=None) -> Engine:
    """Kernels of "pallas_tpu" or "pallas_gpu". blocks: the target's own sizes (hashable), None: from its table."""
    flash, shared = (_module(backend, name) for name in ("flash", "shared"))
    bound = {"interpret": interpret, "blocks": blocks}
    return Engine(*(functools.partial(f, **bound) for f in (flash.forward, flash.backward, shared.forward)))


def refusals(dtype, width: int, kind: str) -> dict:
    """Pallas back-end -> function that says why its attention kernels cannot do this on a device of `kind`, or None."""
    by = lambda backend: _module(backend, "flash").refusal(dtype, width, kind)
    return {backend: functools.partial(by, backend) for backend in PALLAS}


@functools.cache
def log_prob(backend: str, interpret: bool = False, blocks=None) -> chunked.Engine:
    """Kernels of `linear_log_prob`; on a TPU the forward pass reads the whole weight where it lies."""
    kernels = _module(backend, "log_prob")
    bound = {"interpret": interpret, "blocks": blocks}
    parts = (functools.partial(f, **bound) for f in (kernels.stats, kernels.cotangent))
    return chunked.Engine(*parts, whole=backend == "pallas_tpu")


def log_prob_refusals(hidden, weight, kind: str) -> dict:
    """Pallas back-end -> function that says why its kernels cannot do this `linear_log_prob`, or None."""

    def by(backend):
        if hidden.dtype != weight.dtype:
            return f"its kernels take one dtype, hidden is {hidden.dtype.name} and weight {weight.dtype.name}"
        return _module(backend, "log_prob").refusal(hidden.dtype, hidden.shape[1], kind)

    return {backend: functools.partial(by, backend) for backend in PALLAS}
