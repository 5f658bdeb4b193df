"""The names of this room that `import ar1_jax` offers."""

from ar1_jax.policy.loading import load
from ar1_jax.policy.tracing import trace

__all__ = ["load", "trace"]
