"""Compiled programs kept on disk, so that the next process starts without compiling.

The folder carries a mark of the processor, since XLA's CPU programs hold for one kind only."""

import hashlib
import os
import pathlib
import platform


def use(folder: str | os.PathLike) -> pathlib.Path:
    """Keeps every program compiled from now on in `folder` (made if need be), and takes from it what is there.

    Returns the folder inside it for this kind of processor. OSError where it cannot be written. Process-wide."""
    import jax

    inside = pathlib.Path(folder) / f"xla-{processor_mark()}"
    inside.mkdir(parents=True, exist_ok=True)
    if not os.access(inside, os.W_OK):
        raise PermissionError(f"{inside}: not writable")
    if jax.config.jax_compilation_cache_dir != str(inside):
        jax.config.update("jax_compilation_cache_dir", str(inside))
        _forget()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return inside


def _forget() -> None:
    """JAX decides about its cache at the first compilation; it has to look again."""
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def processor_mark() -> str:
    """Eight letters that differ between processors with different instruction sets."""
    info = pathlib.Path("/proc/cpuinfo")
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))]
        if info.exists()
        else []
    )
    text = "|".join([platform.machine(), platform.processor(), *flags[:1]])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
