"""Agents against kinematics by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.world import families, motion, state

SAMPLE = jax.jit(families.sample)


def one_agent(**fields):
    world, _ = SAMPLE(jax.random.key(0), families.weights("free"))
    agents = world.agents.replace(valid=jnp.zeros(state.AGENTS, bool))
    rest = {"heading": 0.0, "speed": 0.0, "accel": 0.0, "cross": 0.0, "kind": state.VEHICLE, "d": 0.0}
    return state.put(agents, 0, **{**rest, **fields}), state.Road(jnp.float32(0.0))


TIME = jnp.array([-1.0, 0.0, 1.0, 4.0, 6.4])


def test_braking_agent_stands_when_its_speed_is_used_up():
    """10 m/s at -2 m/s2: 9 m in 1 s, 24 in 4 s, 25 from 5 s on; before t0 it drove on at 10 m/s."""
    agents, _ = one_agent(s=20.0, speed=10.0, accel=-2.0)
    s, _ = motion.road_positions(agents, TIME)
    np.testing.assert_allclose(s[:, 0], [10.0, 20.0, 29.0, 44.0, 45.0], atol=1e-4)


def test_oncoming_agent_comes():
    agents, _ = one_agent(s=50.0, d=3.7, speed=10.0, heading=np.pi)
    s, d = motion.road_positions(agents, TIME)
    np.testing.assert_allclose(s[:, 0], [60.0, 50.0, 40.0, 10.0, -14.0], atol=1e-3)
    np.testing.assert_allclose(d[:, 0], 3.7, atol=1e-3)


def test_who_crosses_stops_on_the_other_pavement():
    agents, _ = one_agent(s=30.0, d=-2.0, cross=1.5, kind=state.PERSON)
    _, d = motion.road_positions(agents, TIME)
    np.testing.assert_allclose(d[:, 0], [-3.5, -2.0, -0.5, 4.0, state.KERB + 1.0], atol=1e-3)


def test_boxes_lie_on_the_arc_and_only_valid_agents_have_one():
    agents, _ = one_agent(s=40.0, d=-3.0, heading=0.1)
    boxes = np.asarray(motion.boxes(agents, state.Road(jnp.float32(0.01)), jnp.array([0.1])))
    angle, radius = 0.4, 103.0
    np.testing.assert_allclose(
        boxes[0, 0, :3], [radius * np.sin(angle), 100 - radius * np.cos(angle), 0.5], atol=1e-4
    )
    assert boxes[0, 0, 5:].tolist() == [1.0, state.VEHICLE]
    assert (boxes[1:] == 0.0).all() and boxes.shape == (8, 1, 7)
