"""Several processes as one JAX program, joined through environment variables that launch/ sets.

AR1_JAX_COORDINATOR (host:port), AR1_JAX_PROCESSES and AR1_JAX_PROCESS name the meeting point, how many processes
there are and which one this is. On CPU the collectives run over gloo. Without them: one process. On pods and SLURM,
where JAX finds the others itself, AR1_JAX_COORDINATOR=auto is enough."""

import os

import jax

from ar1_jax.core import errors

COORDINATOR, PROCESSES, PROCESS = "AR1_JAX_COORDINATOR", "AR1_JAX_PROCESSES", "AR1_JAX_PROCESS"
TIMEOUT_S = 120


def initialize() -> bool:
    """Joins the other processes where the environment asks for it; True if it did. Call before any other JAX call.

    Raises ConfigError for an incomplete or contradictory environment."""
    coordinator = os.environ.get(COORDINATOR)
    if not coordinator:
        return False
    if coordinator == "auto":
        jax.distributed.initialize(initialization_timeout=TIMEOUT_S)
        return True
    count, index = (number(name) for name in (PROCESSES, PROCESS))
    if not 0 <= index < count:
        raise errors.ConfigError(f"{PROCESS}={index} must lie in 0..{count - 1} ({PROCESSES}={count})")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=count,
        process_id=index,
        initialization_timeout=TIMEOUT_S,
    )
    return True


def joined() -> bool:
    """True where this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def number(name: str) -> int:
    """The environment variable as a number, or ConfigError naming all three."""
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise errors.ConfigError(
            f"{COORDINATOR} is set, so {PROCESSES} and {PROCESS} must be numbers; {name} is {os.environ.get(name)!r}"
        ) from None
