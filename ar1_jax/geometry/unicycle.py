"""Unicycle motion: controls (acceleration m/s2, curvature 1/m) to poses.

N steps of dt seconds; any leading batch. A step of constant acceleration and curvature is an arc and is integrated
exactly, as its chord, in one cumulative sum: no loop over steps. The released codec integrates positions by the
trapezoid of the two end headings instead: see actions/."""

import jax.numpy as jnp


def roll_out(speed, acceleration, curvature, dt):
    """speed [...] at the start, acceleration and curvature [..., N] -> (x, y, yaw, speed), each [..., N], after each
    step, from the origin along +x. Speed is not clipped at 0."""
    speeds = speed[..., None] + jnp.cumsum(acceleration, -1) * dt
    before = speeds - acceleration * dt
    distance = (before + speeds) * (dt / 2.0)
    turn = curvature * distance
    yaw = jnp.cumsum(turn, -1)
    middle = yaw - turn / 2.0
    chord = distance * jnp.sinc(turn / (2.0 * jnp.pi))  # sinc(x) = sin(pi x) / (pi x)
    return jnp.cumsum(chord * jnp.cos(middle), -1), jnp.cumsum(chord * jnp.sin(middle), -1), yaw, speeds
