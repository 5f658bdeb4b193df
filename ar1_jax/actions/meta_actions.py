"""Meta-actions: what a trajectory does, tick by tick (paper Table 5; thresholds: the published auto-labeller).

W waypoints at 0.1 s, T = W + 1 ticks with the origin at t0, ... any leading axes. Kept of the published labelling:
smoothing, cuts with hysteresis and a pause of 3 ticks, class thresholds and their order, minimum lengths without
re-classification, no lateral label while standing. Changed: speed comes from central differences of the positions
(the first is `speed0`); too short runs are removed leftmost first, one at a time, on per-tick labels, where the
published code walks a list. Left out: the lane channel (it needs a map) and spans as text.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

LONGITUDINAL = (
    "gentle_acceleration",
    "strong_acceleration",
    "gentle_deceleration",
    "strong_deceleration",
    "maintain_speed",
    "stop",
    "reverse",
)
LATERAL = (
    "go_straight",
    "steer_left",
    "steer_right",
    "sharp_steer_left",
    "sharp_steer_right",
    "reverse_left",
    "reverse_right",
)
NONE = -1  # lateral: the vehicle stands
MAINTAIN, STOP, STRAIGHT = LONGITUDINAL.index("maintain_speed"), LONGITUDINAL.index("stop"), 0
DT = 0.1
PAUSE = 3  # ticks after a cut, and before the end, without a cut
HYSTERESIS = 0.15
ACCEL_CUTS = (0.1, -0.1, 1.25, -1.25)  # m/s²
RATE_CUTS = (0.001, -0.001, 0.05, -0.05)  # rad/m
SHORTEST, SHORTEST_MAINTAIN, SHORTEST_LATERAL = 8, 12, 10  # ticks


@flax.struct.dataclass
class ChannelClasses:
    """What a trajectory does as a whole. All [...]; classes int32 indices of LONGITUDINAL and LATERAL.

    *_dominant: the class of most ticks; *_first: the first class that is not neutral (maintain_speed, go_straight),
    else the neutral one. min_accel: m/s², smoothed; final_speed: m/s along the heading; lateral_offset: m, the largest
    distance from the arc, signed, left positive.
    """

    longitudinal_dominant: jax.Array
    longitudinal_first: jax.Array
    lateral_dominant: jax.Array
    lateral_first: jax.Array
    min_accel: jax.Array
    final_speed: jax.Array
    lateral_offset: jax.Array


def _kinematics(xyz, rot, speed0):
    """-> xy [..., T, 2], heading [..., T], speed [..., T] and speed along the heading [..., T]."""
    xy = jnp.pad(xyz[..., :2], [(0, 0)] * (xyz.ndim - 2) + [(1, 0), (0, 0)])
    heading = jnp.arctan2(rot[..., 1, 0], rot[..., 0, 0])
    heading = jnp.pad(heading, [(0, 0)] * (heading.ndim - 1) + [(1, 0)])
    central = (xy[..., 2:, :] - xy[..., :-2, :]) / (2 * DT)
    last = (xy[..., -1:, :] - xy[..., -2:-1, :]) / DT
    first = jnp.stack([speed0, jnp.zeros_like(speed0)], axis=-1)[..., None, :]
    velocity = jnp.concatenate([first, central, last], axis=-2)
    along = velocity[..., 0] * jnp.cos(heading) + velocity[..., 1] * jnp.sin(heading)
    return xy, heading, jnp.linalg.norm(velocity, axis=-1), along


def _rolling_mean(x, mode):
    """Mean over 5 ticks, centred; at the edges over those that exist ("shrink") or of a reflection ("reflect")."""
    pad = [(0, 0)] * (x.ndim - 1) + [(2, 2)]
    n = x.shape[-1]

    def five(y, **kwargs):
        y = jnp.pad(y, pad, **kwargs)
        return sum(y[..., k : k + n] for k in range(5))

    return five(x, mode="reflect") / 5 if mode == "reflect" else five(x) / five(jnp.ones_like(x))


def _above(x, threshold, fraction=0.0):
    """x >= threshold [..., T], with hysteresis: on beyond the threshold, off below it, between as it was."""
    margin = fraction * abs(threshold)
    tick = jnp.arange(1, x.shape[-1] + 1)
    on, off = x >= threshold + margin, x < threshold - margin
    on = on.at[..., 0].set(x[..., 0] >= threshold)  # the first tick uses the bare threshold
    last_on = jax.lax.cummax(jnp.where(on, tick, 0), axis=x.ndim - 1)
    last_off = jax.lax.cummax(jnp.where(off, tick, 0), axis=x.ndim - 1)
    return last_on > last_off


def _segments(states):
    """Boolean states [n, ..., T] -> per tick the start of its segment and the end (next start or T-1) [..., T]."""
    ticks = states.shape[-1]
    flips = jnp.any(states[..., 1:] != states[..., :-1], axis=0)
    flips = jnp.pad(flips, [(0, 0)] * (flips.ndim - 1) + [(1, 0)])

    def step(last, now):
        tick, flip = now
        cut = flip & (tick - last > PAUSE) & (tick < ticks - PAUSE)
        return jnp.where(cut, tick, last), cut

    never = jnp.full(flips.shape[:-1], -ticks)
    _, cuts = jax.lax.scan(step, never, (jnp.arange(ticks), jnp.moveaxis(flips, -1, 0)))
    cuts = jnp.moveaxis(cuts, 0, -1)
    return _spans(cuts, ticks - 1)


def _spans(cuts, last):
    """cuts [..., T] True at starts (tick 0 is one anyway) -> start, end [..., T]; the last end is `last`."""
    tick, axis = jnp.arange(cuts.shape[-1]), cuts.ndim - 1
    start = jax.lax.cummax(jnp.where(cuts, tick, 0), axis=axis)
    following = jnp.where(cuts, tick, last)[..., 1:]
    following = jnp.pad(following, [(0, 0)] * (cuts.ndim - 1) + [(0, 1)], constant_values=last)
    return start, jax.lax.cummin(following, axis=axis, reverse=True)


def _total(x, start, end):
    """Sum of x over ticks start .. end-1, per tick."""
    total = jnp.pad(jnp.cumsum(x, axis=-1), [(0, 0)] * (x.ndim - 1) + [(1, 0)])
    return jnp.take_along_axis(total, end, -1) - jnp.take_along_axis(total, start, -1)


def _first_match(rules, default):
    """rules: (condition [...], class) in order -> class of the first that holds, int32 [...]."""
    label = jnp.full(rules[0][0].shape, default, jnp.int32)
    for condition, value in reversed(rules):
        label = jnp.where(condition, value, label)
    return label


def _clean(labels, shortest):
    """Remove runs below their minimum length, leftmost first: between equals they join them, else they are split.

    labels [..., T]; shortest: minimum ticks per class, int32 [classes].
    """
    ticks = labels.shape[-1]
    tick = jnp.arange(ticks)

    def remove_one(_, labels):
        new = jnp.pad(labels[..., 1:] != labels[..., :-1], [(0, 0)] * (labels.ndim - 1) + [(1, 0)])
        start, end = _spans(new, ticks)
        short = (end - start < shortest[labels]) & ~((start == 0) & (end == ticks))
        first = jnp.argmax(short, axis=-1)[..., None]
        low, high = jnp.take_along_axis(start, first, -1), jnp.take_along_axis(end, first, -1)
        before = jnp.take_along_axis(labels, jnp.maximum(low - 1, 0), -1)
        after = jnp.take_along_axis(labels, jnp.minimum(high, ticks - 1), -1)
        before, after = jnp.where(low == 0, after, before), jnp.where(high == ticks, before, after)
        inside = (tick >= low) & (tick < high) & jnp.any(short, -1, keepdims=True)
        return jnp.where(inside, jnp.where(tick < low + (high - low) // 2, before, after), labels)

    return jax.lax.fori_loop(0, ticks // (PAUSE + 1) + 1, remove_one, labels)


def _accelerations(speed):
    steps = jnp.diff(speed, axis=-1) / DT
    return _rolling_mean(jnp.concatenate([steps[..., :1], steps], axis=-1), "shrink")


def _longitudinal(speed, along):
    accel = _accelerations(speed)
    states = [_above(along, 0.3), _above(along, -0.3)] + [_above(accel, a, HYSTERESIS) for a in ACCEL_CUTS]
    start, end = _segments(jnp.stack(states))
    count = end - start
    gain = jnp.take_along_axis(speed, end, -1) - jnp.take_along_axis(speed, start, -1)
    mean_accel = gain / (count * DT)
    rules = [
        (_total(along, start, end) / count <= -0.12, "reverse"),
        (_total(speed, start, end) / count <= 0.12, "stop"),
        ((mean_accel >= 1.4) & (gain >= 0.8), "strong_acceleration"),
        ((mean_accel >= 0.15) & (mean_accel <= 1.4) & (gain >= 0.8), "gentle_acceleration"),
        ((mean_accel <= -1.4) & (gain <= -0.8), "strong_deceleration"),
        ((mean_accel >= -1.4) & (mean_accel <= -0.15) & (gain <= -0.8), "gentle_deceleration"),
    ]
    labels = _first_match([(holds, LONGITUDINAL.index(name)) for holds, name in rules], MAINTAIN)
    shortest = jnp.full(len(LONGITUDINAL), SHORTEST).at[MAINTAIN].set(SHORTEST_MAINTAIN)
    return _clean(labels, shortest)


def _lateral(xy, heading, along):
    """Labels per step [..., W]; standing is not yet taken out."""
    distance = jnp.linalg.norm(jnp.diff(xy, axis=-2), axis=-1)
    turn = jnp.diff(heading, axis=-1)
    turn = _rolling_mean(jnp.arctan2(jnp.sin(turn), jnp.cos(turn)), "reflect")
    rate = jnp.where(distance > 1e-6, turn / jnp.maximum(distance, 1e-6), 0.0)
    along = along[..., :-1]
    start, end = _segments(jnp.stack([_above(along, -0.1)] + [_above(rate, r) for r in RATE_CUTS]))
    total = _total(turn, start, end)
    mean_rate = total / jnp.maximum(_total(distance, start, end), 1e-6)
    backwards = _total(along, start, end) / (end - start) <= -0.1
    rules = [
        (backwards & (mean_rate <= -0.002) & (total <= -0.2), "reverse_right"),
        (backwards & (mean_rate >= 0.002) & (total >= 0.2), "reverse_left"),
        ((mean_rate <= -0.05) & (total <= -0.2), "sharp_steer_right"),
        ((mean_rate >= 0.05) & (total >= 0.2), "sharp_steer_left"),
        ((mean_rate <= -0.0015) & (total <= -0.015), "steer_right"),
        ((mean_rate >= 0.0015) & (total >= 0.015), "steer_left"),
    ]
    labels = _first_match([(holds, LATERAL.index(name)) for holds, name in rules], STRAIGHT)
    return _clean(labels, jnp.full(len(LATERAL), SHORTEST_LATERAL))


def arc_offset(xy: jax.Array, curvature: jax.Array) -> jax.Array:
    """Signed distance [...] m, left positive, of points [..., 2] from the arc that leaves the origin along x."""
    square = jnp.sum(xy * xy, axis=-1)
    root = jnp.sqrt(jnp.maximum(1 - 2 * curvature * xy[..., 1] + curvature**2 * square, 0.0))
    return (2 * xy[..., 1] - curvature * square) / (1 + root)


def _largest_offset(xy, curvature0):
    if curvature0 is None:  # the arc that ends where the trajectory ends
        end = xy[..., -1, :]
        curvature0 = 2 * end[..., 1] / jnp.maximum(jnp.sum(end * end, axis=-1), 1.0)
    offset = arc_offset(xy, curvature0[..., None])
    most = jnp.argmax(jnp.abs(offset), axis=-1)[..., None]
    return jnp.take_along_axis(offset, most, -1)[..., 0]


@jax.jit
def _labels(xyz, rot, speed0):
    xy, heading, speed, along = _kinematics(xyz, rot, speed0)
    longitudinal = _longitudinal(speed, along)
    lateral = _lateral(xy, heading, along)
    return longitudinal, jnp.where(longitudinal[..., :-1] == STOP, NONE, lateral)


def labels(xyz: Any, rot: Any, speed0: Any) -> tuple[jax.Array, jax.Array]:
    """Meta-actions per tick: longitudinal int32 [..., W+1] from t0 on, lateral int32 [..., W] (NONE at rest).

    xyz float [..., W, 3] m, rot [..., W, 3, 3] in the ego frame at t0, every 0.1 s from 0.1 s on; speed0 [...] m/s at
    t0, negative when reversing.
    """
    return _labels(*(jnp.asarray(a, jnp.float32) for a in (xyz, rot, speed0)))


def _dominant(ticks, classes):
    """Class with most ticks [...] of labels [..., T]; the first of equals; NONE where there is no other."""
    counts = jnp.sum(ticks[..., None] == jnp.arange(classes), axis=-2)
    return jnp.where(jnp.any(ticks >= 0, axis=-1), jnp.argmax(counts, axis=-1), NONE).astype(jnp.int32)


def _first(ticks, neutral):
    active = (ticks != neutral) & (ticks != NONE)
    found = jnp.take_along_axis(ticks, jnp.argmax(active, axis=-1)[..., None], -1)[..., 0]
    return jnp.where(jnp.any(active, axis=-1), found, neutral).astype(jnp.int32)


@jax.jit
def _channel_classes(xyz, rot, speed0, curvature0):
    longitudinal, lateral = _labels(xyz, rot, speed0)
    xy, _, speed, along = _kinematics(xyz, rot, speed0)
    return ChannelClasses(
        longitudinal_dominant=_dominant(longitudinal, len(LONGITUDINAL)),
        longitudinal_first=_first(longitudinal, MAINTAIN),
        lateral_dominant=_dominant(lateral, len(LATERAL)),
        lateral_first=_first(lateral, STRAIGHT),
        min_accel=jnp.min(_accelerations(speed), axis=-1),
        final_speed=along[..., -1],
        lateral_offset=_largest_offset(xy, curvature0),
    )


def channel_classes(xyz: Any, rot: Any, speed0: Any, curvature0: Any = None) -> ChannelClasses:
    """Trajectories [..., W, 3], [..., W, 3, 3], speed0 [...] -> ChannelClasses over [...], without host loops.

    curvature0: 1/m [...] of the path to measure the lateral offset from (of the lane, or of the history); None: the
    arc from the origin to the trajectory's own end, so that a nudge that returns shows and a steady curve does not.
    """
    arrays = [None if a is None else jnp.asarray(a, jnp.float32) for a in (xyz, rot, speed0, curvature0)]
    return _channel_classes(*arrays)
