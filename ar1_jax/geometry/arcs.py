"""A road as an arc of constant curvature: Cartesian (x, y) to and from road coordinates (s, d).

s metres along the centre line from the origin, d metres to its left, curvature 1/m left positive; the arc starts at
the origin along +x. Exact for every curvature including 0 (series where the closed form divides by it); valid within
half a turn and inside the circle, |curvature * d| < 1. Any broadcastable shapes, float32."""

import jax.numpy as jnp

_SMALL = 1e-3  # below this angle the series' next term is under float32's resolution


def _ratio(function, series, angle):
    """function(angle) / angle with its series near 0."""
    safe = jnp.where(jnp.abs(angle) < _SMALL, 1.0, angle)
    return jnp.where(jnp.abs(angle) < _SMALL, series(angle), function(safe) / safe)


def to_cartesian(s, d, curvature):
    """Road coordinates -> (x, y, heading of the road there)."""
    angle = curvature * s
    forward = s * _ratio(jnp.sin, lambda a: 1.0 - a * a / 6.0, angle)
    left = s * _ratio(lambda a: 2.0 * jnp.sin(a / 2.0) ** 2, lambda a: a / 2.0 - a**3 / 24.0, angle)
    return forward - d * jnp.sin(angle), left + d * jnp.cos(angle), angle


def to_road(x, y, curvature):
    """Cartesian -> (s, d). From (1 - curvature d)^2 = 1 - 2 curvature q, q = y - curvature (x^2 + y^2) / 2."""
    q = y - curvature * (x * x + y * y) / 2.0
    d = 2.0 * q / (1.0 + jnp.sqrt(jnp.maximum(1.0 - 2.0 * curvature * q, 0.0)))
    angle = jnp.arctan2(curvature * x, 1.0 - curvature * y)
    small = jnp.abs(angle) < _SMALL
    along = x / jnp.where(small, 1.0 - curvature * y, 1.0)
    s = jnp.where(small, along * (1.0 - angle * angle / 3.0), angle / jnp.where(small, 1.0, curvature))
    return s, d
