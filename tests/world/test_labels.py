"""Labels of worlds set up by hand, with pixels counted by hand: urgency, distance, and what nobody can see."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.text import coc
from ar1_jax.world import boxes, driver, families, labels, state

ALL = np.full(30, 50)
SAMPLE, LABEL, DECIDE = jax.jit(families.sample), jax.jit(labels.label), jax.jit(driver.decide)


def world_of(light=state.DARK, stop=30.0, **slots):
    """A straight world with nothing but what is given: slotN={...}."""
    world, _ = SAMPLE(jax.random.key(0), families.weights("free"))
    agents = world.agents.replace(valid=jnp.zeros(state.AGENTS, bool))
    for name, fields in slots.items():
        slot = int(name[4:])
        kind = state.VEHICLE if slot < state.VEHICLE_SLOTS else state.PERSON
        size = jnp.array([4.0, 1.8, 1.5]) if kind == state.VEHICLE else jnp.array([0.4, 0.6, 1.8])
        rest = {
            "heading": 0.0,
            "speed": 0.0,
            "accel": 0.0,
            "cross": 0.0,
            "brake": False,
            "kind": kind,
            "size": size,
        }
        agents = state.put(agents, slot, **{**rest, **fields})
    lamp = state.Light(jnp.int32(light), jnp.float32(stop), jnp.float32(0.0))
    return world.replace(road=state.Road(jnp.float32(0.0)), agents=agents, light=lamp)


def said(world, pixels=ALL, shining=ALL):
    """(sentence, shown)."""
    label = LABEL(world, DECIDE(world), jnp.asarray(pixels), jnp.asarray(shining))
    cause = coc.cause_of(*(int(value) for value in label.cause))
    names = coc.LONGITUDINAL[int(label.longitudinal)], coc.LATERAL[int(label.lateral)]
    return coc.write(*names, [cause]), bool(label.shown)


def hide(index):
    pixels = ALL.copy()
    pixels[index] = 0
    return pixels


PERSON = {"s": 30.0, "d": 2.0, "cross": -1.2}


def test_each_demand_by_hand():
    """Distances from the bumper at 3.7 m: the person's side is at 29.7, 26 m away; the light at 34, 30.3 m; a lead
    of 4 m at s = 20 begins at 18, 14.3 m; the stopped car at s = 40 begins at 38, 34.3 m."""
    assert said(world_of()) == ("Keep speed, keep lane: road clear.", True)
    assert (
        said(world_of(slot4=PERSON))[0]
        == "Yield, keep lane: pedestrian on the road from the left within 36 m."
    )
    assert said(world_of(state.RED))[0] == "Stop, keep lane: red light within 36 m."
    assert said(world_of(state.YELLOW))[0] == "Stop, keep lane: yellow light within 36 m."
    assert said(world_of(state.GREEN))[0] == "Keep speed, keep lane: green light within 36 m."
    lead = {"s": 20.0, "d": 0.1, "speed": 9.0}
    assert said(world_of(slot0=lead))[0] == "Keep speed, keep lane: lead vehicle moving within 24 m."
    braking = {**lead, "brake": True, "accel": -2.0}
    assert said(world_of(slot0=braking))[0] == "Follow lead, keep lane: lead vehicle braking within 24 m."
    blocking = {"s": 40.0, "d": -1.5}
    assert (
        said(world_of(slot0=blocking))[0]
        == "Keep speed, nudge left: stopped vehicle on the right within 36 m."
    )
    parked = {"s": 40.0, "d": 4.0}
    assert said(world_of(slot1=parked))[0] == "Keep speed, keep lane: parked vehicle on the left within 36 m."
    standing = {"s": 12.0, "d": -6.8}
    assert (
        said(world_of(slot5=standing))[0]
        == "Keep speed, keep lane: pedestrian standing on the right within 12 m."
    )


def test_the_urgent_is_named_before_the_near():
    near = {"s": 12.0, "d": -6.8}
    assert "red light" in said(world_of(state.RED, slot5=near))[0]
    assert "on the road" in said(world_of(state.GREEN, slot4=PERSON, slot5=near))[0]
    assert "within 12 m" in said(world_of(slot5=near, slot6={"s": 50.0, "d": 7.0}))[0]


def test_what_no_picture_shows_is_not_named():
    """Without its pixels every demand turns neutral and `shown` says that the driver knows more than the policy."""
    neutral = "Keep speed, keep lane: road clear."
    person = hide(boxes.PERSON)
    assert said(world_of(slot4=PERSON), pixels=person) == (neutral, False)
    assert said(world_of(state.RED), shining=hide(boxes.LIGHT)) == (neutral, False)
    assert said(world_of(state.GREEN), shining=hide(boxes.LIGHT)) == (neutral, True)
    blocking = world_of(slot0={"s": 40.0, "d": -1.5})
    hidden = hide(boxes.VEHICLE_BODY)
    hidden[boxes.VEHICLE_CABIN] = 0
    assert said(blocking, pixels=hidden) == (neutral, False)
    braking = world_of(slot0={"s": 20.0, "d": 0.0, "speed": 9.0, "brake": True, "accel": -2.0})
    text, shown = said(braking, shining=np.zeros(30, int))
    assert text.startswith("Keep speed, keep lane:") and not shown


def test_beyond_60_metres_nothing_is_named():
    assert said(world_of(slot4={**PERSON, "s": 90.0})) == ("Keep speed, keep lane: road clear.", False)


def test_passing_traffic_is_no_cause():
    passing, oncoming = (
        {"s": 20.0, "d": -3.7, "speed": 9.0, "brake": True},
        {"s": 30.0, "d": 3.7, "speed": 9.0, "heading": np.pi},
    )
    assert said(world_of(slot3=passing, slot2=oncoming)) == ("Keep speed, keep lane: road clear.", True)
