"""Which implementation of an operation runs: today the XLA reference, on every platform."""

import logging

BACKENDS = ("auto", "xla", "pallas_tpu", "pallas_gpu", "cudnn")
_LOGGED: set[tuple[str, str]] = set()


def choose(operation: str, backend: str) -> str:
    """The back-end that `operation` uses for the request `backend`; logged once. ValueError for what cannot run."""
    if backend not in BACKENDS:
        raise ValueError(f"{operation}: backend={backend!r} is not one of {', '.join(BACKENDS)}")
    if backend not in ("auto", "xla"):
        raise ValueError(
            f"{operation}: backend={backend!r} is not available; this release has the XLA path (backend='xla')"
        )
    if (operation, backend) not in _LOGGED:
        _LOGGED.add((operation, backend))
        logging.getLogger(__name__).info("%s: backend xla (requested %s)", operation, backend)
    return "xla"
