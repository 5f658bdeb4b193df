"""Does the trajectory do what the reasoning says? 1 if both channels agree, else 0; unparsable is 0 (the
paper, 5.3.2).

The paper's matching table is unpublished. Here a trajectory is summed up by what it does to the speed and to
the offset from the lane's centre, and each decision of the closed sets names the summaries it goes with. The
truth of the decision plays no part: saying the wrong thing and doing it is consistent, and only the other
rewards see the mistake. Letters: B scenes, G completions, W waypoints 0.1 s apart.
"""

import jax.numpy as jnp
import numpy as np

from ar1_jax.metrics import road
from ar1_jax.rl import outcomes
from ar1_jax.text import coc

BOUNDS = (0.0, 1.0)

# longitudinal summaries, m/s
SLOWS, STOPS, GAINS = (
    1.0,
    0.6,
    1.0,
)  # speed lost (also >= 10 % of the initial one); speed of standing; speed gained
STOPPING = 0.5  # share of the initial speed left at the horizon's end that still reads as coming to a stop
# lateral summaries, m moved against the lane's centre since the first waypoint; the last in rad of heading.
# Keeping: no line crossed, by a car of 1.9 m in a lane of 3.6 m. A nudge stays well short of the next lane's middle.
KEEPS, SHIFTS, NUDGES, NUDGES_AT_MOST, CHANGES, TURNS = 0.85, 0.2, 0.4, 2.5, 1.8, 0.5

KEEPING, SLOWING, STOPPED, GAINING = 1, 2, 4, 8  # bits; several can hold
LONGITUDINAL_GOES_WITH = {
    "set_speed": KEEPING | GAINING,
    "follow_lead": KEEPING | SLOWING,
    "speed_adaptation": SLOWING | GAINING,
    "gap_search": KEEPING | SLOWING | GAINING,
    "pass": GAINING,
    "yield": SLOWING | STOPPED,
    "stop": STOPPED,
}
STRAIGHT, LEFT, RIGHT, FAR_LEFT, FAR_RIGHT, SMALL_LEFT, SMALL_RIGHT, TURN_LEFT, TURN_RIGHT = (
    1 << n for n in range(9)
)
LATERAL_GOES_WITH = {
    "lane_keeping": STRAIGHT,
    "merge_split": FAR_LEFT | FAR_RIGHT,
    "nudge_out_left": LEFT,
    "nudge_out_right": RIGHT,
    "nudge_in_left": SMALL_LEFT,
    "nudge_in_right": SMALL_RIGHT,
    "lane_change_left": FAR_LEFT,
    "lane_change_right": FAR_RIGHT,
    "pull_over": RIGHT,
    "turn_left": TURN_LEFT,
    "turn_right": TURN_RIGHT,
    "abort": STRAIGHT | LEFT | RIGHT,
}


def longitudinal_summary(speed):
    """speed [..., W + 1] m/s from t0 on -> int32 [...] bits KEEPING, SLOWING, STOPPED, GAINING."""
    start, lowest, highest, end = speed[..., 0], jnp.min(speed, -1), jnp.max(speed, -1), speed[..., -1]
    slows = start - lowest > jnp.maximum(SLOWS, 0.1 * start)
    stops = (lowest < STOPS) | (slows & (end < STOPPING * start))
    gains = ~slows & (highest - start > GAINS)
    keeps = ~slows & ~gains
    return KEEPING * keeps + SLOWING * slows + STOPPED * stops + GAINING * gains


def lateral_summary(offset, heading):
    """offset [..., W] m left of the lane's centre, heading [..., W] rad -> int32 [...] bits.

    By the largest move to either side, the last one, and how far the ego has turned at the end.
    """
    move = offset - offset[..., :1]
    left, right, end = jnp.max(move, -1), -jnp.min(move, -1), move[..., -1]
    leans_left, leans_right = left > right, right >= left
    size = jnp.maximum(left, right)
    nudges = (size > NUDGES) & (size < NUDGES_AT_MOST)
    return (
        STRAIGHT * (size < KEEPS)
        + LEFT * (leans_left & nudges)
        + RIGHT * (leans_right & nudges)
        + FAR_LEFT * (end > CHANGES)
        + FAR_RIGHT * (end < -CHANGES)
        + SMALL_LEFT * (leans_left & (size > SHIFTS))
        + SMALL_RIGHT * (leans_right & (size > SHIFTS))
        + TURN_LEFT * (heading[..., -1] > TURNS)
        + TURN_RIGHT * (heading[..., -1] < -TURNS)
    )


def agrees(decision, summary, table, names):
    """decision int32 [...] index of names, -1 unparsable; summary int32 [...] bits -> bool [...]."""
    bits = jnp.asarray(np.array([table[name] for name in names], np.int32))
    return (decision >= 0) & ((bits[jnp.maximum(decision, 0)] & summary) != 0)


def channels(outcome, truth):
    """outcomes.Outcome, outcomes.Truth (its history and road only) -> bool [B, G] longitudinal, bool [B, G]
    lateral."""
    start = outcomes.present_speed(truth.history_xyz)
    initial = jnp.broadcast_to(start[:, None], outcome.longitudinal.shape)
    speed = outcomes.speeds(outcome.xyz, initial)
    lateral = lateral_summary(
        road.lane_offset(outcome.xyz, truth.road[:, None]), outcomes.headings(outcome.rot)
    )
    return (
        agrees(outcome.longitudinal, longitudinal_summary(speed), LONGITUDINAL_GOES_WITH, coc.LONGITUDINAL),
        agrees(outcome.lateral, lateral, LATERAL_GOES_WITH, coc.LATERAL),
    )


def reward(outcome, truth):
    """-> float32 [B, G]: 1 where both channels agree with the trajectory, else 0."""
    longitudinal, lateral = channels(outcome, truth)
    return (longitudinal & lateral).astype(jnp.float32)
