"""A policy as portable programs: StableHLO for several platforms, weights beside it, one manifest."""

from ar1_jax.export.runtime import load

__all__ = ["load"]
