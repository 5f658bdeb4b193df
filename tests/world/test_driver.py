"""Profiles against integration in float64; on 2,048 scenes the driver harms nobody and stays comfortable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.metrics import collision, comfort, road
from ar1_jax.world import api, driver, families, motion, state


@functools.cache
def driven(n=2048):
    """Facts of n scenes without pictures, as NumPy."""

    def one(halves, weight):
        world, family = families.sample(api.seed_key(halves), weight)
        decision = driver.decide(world)
        past = driver.history(world, driver.history_times())
        xyz, rot = driver.future(world, decision, driver.future_times())
        agents = motion.boxes(world.agents, world.road, driver.future_times())
        lane = jnp.stack([world.road.curvature, -state.KERB, state.KERB])
        crossed = road.crosses_line(xyz, world.light.stop, world.road.curvature)
        return {
            "family": family,
            "decision": decision,
            "clearance": jnp.min(collision.clearance(xyz, rot, agents)),
            "overhang": jnp.max(road.overhang(xyz, rot, lane)),
            "comfort": comfort.comfort(xyz, rot, *past),
            "ran_light": jnp.any(crossed) & decision.stop,
            "xyz": xyz,
            "offset": road.lane_offset(xyz, lane),
            "speed": world.ego.speed,
        }

    halves = api.split_seeds("test", n).view(np.uint32).reshape(n, 2)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one, (0, None)))(halves, families.weights()))


def integrate(speed_at, until, n=20001):
    time = np.linspace(0.0, until, n)
    values = speed_at(time)
    return np.sum((values[1:] + values[:-1]) / 2) * (time[1] - time[0])


@pytest.mark.parametrize("speed, accel, distance", [(10.0, 0.0, 25.0), (14.5, 0.3, 50.0), (5.0, -0.3, 36.0)])
def test_stop_profile_integrates_its_speed(speed, accel, distance):
    """v = v0 (1 - 3u^2 + 2u^3) + a0 T (u - 2u^2 + u^3), with T from T (v0 / 2 + a0 T / 12) = distance."""
    duration = max(np.roots([accel / 12, speed / 2, -distance]).real) if accel > 0 else (
        min(r.real for r in np.roots([accel / 12, speed / 2, -distance]) if r.real > 0))  # fmt: skip
    u = lambda t: t / duration
    velocity = lambda t: (speed * (1 - 3 * u(t) ** 2 + 2 * u(t) ** 3)
                          + accel * duration * (u(t) - 2 * u(t) ** 2 + u(t) ** 3))  # fmt: skip
    times = np.array([0.1, 1.0, 0.6 * duration, duration, duration + 3.0])
    want = [integrate(velocity, min(t, duration)) for t in times]
    got = driver.stop_profile(speed, accel, distance, times.astype(np.float32))
    np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_allclose(got[-1], distance, atol=2e-3)
    assert velocity(np.linspace(0, duration, 500)).min() > -1e-9, "never backwards"


def test_keep_profile_integrates_its_speed():
    """a falls from 0.3 to 0 within 1.5 s: 0.225 m/s gained."""
    velocity = lambda t: 8.0 + 0.3 * (np.minimum(t, 1.5) - np.minimum(t, 1.5) ** 2 / 3.0)
    got = driver.keep_profile(8.0, 0.3, np.array([1.0, 6.4], np.float32))
    np.testing.assert_allclose(got, [integrate(velocity, 1.0), integrate(velocity, 6.4)], atol=1e-3)
    assert abs(velocity(6.4) - 8.225) < 1e-9


def test_driver_never_collides_or_leaves_the_road():
    facts = driven()
    assert (facts["clearance"] > 0.5).all(), facts["family"][facts["clearance"] <= 0.5]
    assert (facts["overhang"] < -0.5).all()
    assert not facts["ran_light"].any()


def test_driver_is_comfortable_from_history_on():
    assert driven()["comfort"].passes.all()


def test_nudge_leaves_the_lane_and_returns_nowhere_else():
    facts = driven()
    widest = np.abs(facts["offset"]).max(-1)
    nudges = facts["decision"].nudges != 0
    assert (widest[nudges] + state.EGO_WIDTH / 2 > state.LANE / 2).all(), (
        "a nudge out of the lane crosses its line"
    )
    assert (widest[~nudges] < 0.05).all()
    assert (np.sign(facts["offset"].sum(-1))[nudges] == facts["decision"].nudges[nudges]).all()


def test_reactions_lose_speed_and_keeping_does_not():
    facts = driven()
    steps = np.linalg.norm(np.diff(facts["xyz"][..., :2], axis=1), axis=-1) / 0.1
    reacts = facts["decision"].distance < driver.FAR / 2
    assert (steps[reacts, -1] < 0.9 * facts["speed"][reacts]).all()
    assert (np.abs(steps[~reacts, -1] - facts["speed"][~reacts]) < 0.5).all()


def test_history_ends_at_the_origin(batch):
    np.testing.assert_allclose(batch["ego_history_xyz"][:, -1], 0.0, atol=1e-6)
    np.testing.assert_allclose(batch["ego_history_rot"][:, -1], np.tile(np.eye(3), (64, 1, 1)), atol=1e-6)
    speed = np.linalg.norm(np.diff(batch["ego_history_xyz"], axis=1), axis=-1) / 0.1
    assert (speed > 4.0).all() and (speed < 15.5).all()
