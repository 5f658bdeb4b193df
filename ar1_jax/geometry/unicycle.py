"""Unicycle motion: controls (acceleration m/s2, curvature 1/m) to poses.

N steps of dt seconds; any leading batch. Speed is integrated exactly, heading with curvature times the distance of the
step, position along the mean heading of the step (midpoint rule), as one cumulative sum: no loop over steps. The
released codec integrates positions by the trapezoid of the two end headings instead: see actions/."""

import jax.numpy as jnp


def roll_out(speed, acceleration, curvature, dt):
    """speed [...] at the start, acceleration and curvature [..., N] -> (x, y, yaw, speed) each [..., N] after each step,
    from the origin along +x. Speed is not clipped at 0."""
    speeds = speed[..., None] + jnp.cumsum(acceleration, -1) * dt
    before = speeds - acceleration * dt
    distance = (before + speeds) * (dt / 2.0)
    turn = curvature * distance
    yaw = jnp.cumsum(turn, -1)
    middle = yaw - turn / 2.0
    return jnp.cumsum(distance * jnp.cos(middle), -1), jnp.cumsum(distance * jnp.sin(middle), -1), yaw, speeds
