"""Which implementation of an operation runs, decided while a program is traced and said once in the log."""

import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax

BACKENDS = ("auto", "xla", "pallas_tpu", "pallas_gpu", "cudnn")
PLATFORM = {"pallas_tpu": "tpu", "pallas_gpu": "gpu", "cudnn": "gpu"}
# What "auto" tries before XLA. A kernel is listed where its values have been checked on such a chip, or by the chip's
# own compiler and the race-detecting interpreter (TPU). The Mosaic GPU kernels have run on no chip yet: ask for them
# by name; kernels/README.md says how to check them there.
PREFERRED = {"cpu": (), "tpu": ("pallas_tpu",), "gpu": ("cudnn",)}
_LOGGED: set[tuple[str, str, str]] = set()


class Refused(ValueError):
    """A back-end asked for by name that cannot do a call; says why."""


class Target(NamedTuple):
    """What a program is traced for.

    platform: "cpu", "gpu" or "tpu". kind: as jax names the device ("NVIDIA H200", "TPU v6 lite"), "" where unknown.
    interpret: kernels run through Pallas' interpreter, on any machine.
    """

    platform: str
    kind: str = ""
    interpret: bool = False


_TARGET = jax.make_user_context(None)  # part of the key under which jit keeps a program


def target() -> Target:
    """The target named by `tracing_for`, else the device of the mesh in force, else the default device."""
    named = _TARGET.value
    if named is not None:
        return named
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return Target(
            {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform), device.device_kind
        )
    return Target(jax.default_backend(), jax.devices()[0].device_kind)


@contextlib.contextmanager
def tracing_for(platform: str, kind: str = "", interpret: bool = False):
    """Programs traced inside are for `platform`.

    To lower or compile for a chip that is not here or, with interpret=True, to run its kernels through the interpreter.
    """
    if platform not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"tracing_for: platform={platform!r} is not one of cpu, gpu, tpu")
    with _TARGET(Target(platform, kind, interpret)):
        yield


def choose(operation: str, backend: str, refusals: dict[str, Callable[[], str | None]]) -> str:
    """The back-end that `operation` uses for the request `backend`; logged once.

    refusals: back-end -> function that says why it cannot do this call, or None. ValueError for a name that is none,
    Refused for a request that cannot be met, with the reason; "auto" falls back to XLA and logs the reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"{operation}: backend={backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "xla":
        return _say(operation, "xla", "as asked")
    here = target()
    if backend != "auto":
        reason = _refusal(operation, backend, here, refusals)
        if reason:
            raise Refused(f"{operation}: backend={backend!r}: {reason}; backend='xla' runs everywhere")
        return _say(operation, backend, "as asked")
    reasons = []
    for name in PREFERRED.get(here.platform, ()):
        reason = _refusal(operation, name, here, refusals)
        if reason is None:
            return _say(operation, name, f"chosen on {here.kind or here.platform}")
        reasons.append(f"{name}: {reason}")
    return _say(operation, "xla", "; ".join(reasons) or f"chosen on {here.kind or here.platform}")


def _refusal(operation, name, here: Target, refusals) -> str | None:
    if name not in refusals:
        return f"there is none for {operation}"
    if PLATFORM[name] != here.platform:
        return f"it needs a {PLATFORM[name].upper()}, this program is for {here.kind or here.platform}"
    return refusals[name]()


def _say(operation: str, chosen: str, why: str) -> str:
    if (operation, chosen, why) not in _LOGGED:
        _LOGGED.add((operation, chosen, why))
        logging.getLogger(__name__).info("%s: backend %s (%s)", operation, chosen, why)
    return chosen
