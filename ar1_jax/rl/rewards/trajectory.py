"""Trajectory quality in [-1, 1]: near to what the driver did, touching nothing, on the road, comfortable.

The paper: l_L2 |x - x_driver|^2 + l_coll [collision] + l_jerk J(x), with values unpublished. Here each term
is bounded and smooth where it can be: a half-life form of the ADE in place of a gate, and comfort as a graded
penalty. Letters: B scenes, G completions, W waypoints 0.1 s apart. Units m, s, rad.
"""

import jax.numpy as jnp

from ar1_jax.metrics import collision, comfort, displacement, road

BOUNDS = (-1.0, 1.0)
ADE_SCALE = 2.0  # m: the ADE at which nearness is one half
COLLISION, OFF_ROAD, DISCOMFORT = 0.5, 0.25, 0.25  # largest penalties; their sum is the lower bound


def discomfort(xyz, rot, history_xyz, history_rot):
    """Poses [..., W, 3], [..., W, 3, 3], history [..., 16, 3] ... -> [...] in [0, 1): 0 while every signal stays inside
    its bound (metrics.comfort.BOUNDS), growing with the mean excess over all steps, the seam at t0 among them."""
    excess = comfort.comfort(xyz, rot, history_xyz, history_rot).excess
    return 1.0 - jnp.exp(-len(comfort.BOUNDS) * excess)


def quality(ade, collides, off, discomfort_):
    """Four [B, G] (m, bool, share, [0, 1)) -> [B, G] in [-1, 1], falling in each of them."""
    near = 1.0 / (1.0 + ade / ADE_SCALE)
    return near - COLLISION * collides - OFF_ROAD * off - DISCOMFORT * discomfort_


def parts(outcome, truth):
    """-> {ade m, collision 0 or 1, off_road share of waypoints, discomfort}: float32 [B, G] each, also for the log."""
    xyz, rot, group = outcome.xyz, outcome.rot, lambda x: x[:, None]
    ends = {
        "ade": displacement.ade(xyz, truth.future_xyz),
        "collision": jnp.any(collision.collides(xyz, rot, group(truth.agents)), axis=-1),
        "off_road": jnp.mean(road.off_road(xyz, rot, group(truth.road)), axis=-1),
        "discomfort": discomfort(xyz, rot, group(truth.history_xyz), group(truth.history_rot)),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in ends.items()}


def reward(outcome, truth):
    """outcomes.Outcome, outcomes.Truth -> float32 [B, G] in BOUNDS."""
    return quality(*parts(outcome, truth).values())
