"""AR1-JAX: Alpamayo-R1 in JAX, a driving model that reasons before it plans.

The names below are loaded when first used, so that `import ar1_jax` costs next to nothing."""

import importlib

__version__ = "0.1.0"

LAZY = {
    "load": "ar1_jax.policy.api",
    "trace": "ar1_jax.policy.api",
    "Scene": "ar1_jax.core.types",
    "Plan": "ar1_jax.core.types",
    "actions": None,
    "images": None,
}
__all__ = ["Plan", "Scene", "actions", "images", "load", "trace"]


def __getattr__(name: str):
    if name not in LAZY:
        raise AttributeError(f"module 'ar1_jax' has no attribute {name!r}; it has {', '.join(LAZY)}")
    room = LAZY[name]
    module = importlib.import_module(room or f"ar1_jax.{name}")
    value = getattr(module, name) if room else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
