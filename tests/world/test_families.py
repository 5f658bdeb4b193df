"""The registry swept: each family works, has its negative, and tells nothing through the history."""

import functools

import jax
import numpy as np
import pytest

from ar1_jax.world import api, driver, families, state

N = 4096


@functools.cache
def sampled(family=None, n=N):
    def one(halves, weight):
        world, which = families.sample(api.seed_key(halves), weight)
        past = driver.history(world, driver.history_times())
        return world, which, driver.decide(world), past

    halves = api.split_seeds("validation", n).view(np.uint32).reshape(n, 2)
    made = jax.jit(jax.vmap(one, (0, None)))(halves, families.weights(family))
    return jax.tree.map(np.asarray, made)


def joint(decision):
    """One letter a scene: the decision of both channels."""
    longitudinal = np.where(
        decision.stop, "s", np.where(decision.yields, "y", np.where(decision.follows, "f", "k"))
    )
    return np.where(decision.nudges > 0, "L", np.where(decision.nudges < 0, "R", longitudinal))


def test_shares_of_decisions():
    """Blind guessing must not pay: the commonest decision at most 45 %, every other at least 8 %."""
    _, which, decision, _ = sampled()
    names, counts = np.unique(joint(decision), return_counts=True)
    shares = dict(zip(names.tolist(), counts / N))
    assert set(shares) == set("sykfLR")
    assert shares["k"] <= 0.45 and max(shares, key=shares.get) == "k"
    assert min(shares.values()) >= 0.08, shares
    drawn = np.bincount(which, minlength=len(families.names())) / N
    np.testing.assert_allclose(drawn, families.weights() / families.weights().sum(), atol=0.03)


@pytest.mark.parametrize("family", families.names())
def test_every_family_works(family):
    world, which, decision, _ = sampled(family, 512)
    assert (which == families.names().index(family)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((world, decision)))
    kinds = joint(decision)
    expected = {"free": "k", "lead": "fk", "light": "sk", "pedestrian": "yk", "nudge": "LRk"}
    for kind in expected.get(family, "k"):
        assert (kinds == kind).mean() >= (0.05 if family == "nudge" else 0.3 if family != "free" else 1.0), (
            kind
        )
    assert set(kinds) <= set(expected.get(family, "sykfLR"))


def test_history_cannot_tell_the_family():
    """The same seeds under each family have the same ego, road and history, bit for bit."""
    base = sampled("free", 512)
    for family in families.names():
        world, _, _, past = sampled(family, 512)
        for got, want in zip(jax.tree.leaves((world.ego, world.road, past)),
                             jax.tree.leaves((base[0].ego, base[0].road, base[3]))):  # fmt: skip
            np.testing.assert_array_equal(got, want)


def test_negatives_show_the_same_objects():
    """A lead that keeps pace stands where one that brakes does; a person aside at the distances of one on the road."""
    for family, slot in (("lead", 0), ("pedestrian", 4), ("nudge", 0)):
        world, _, decision, _ = sampled(family, 512)
        calm = joint(decision) == "k"
        assert world.agents.valid[:, slot].all()
        reacting, neutral = world.agents.s[~calm, slot], world.agents.s[calm, slot]
        assert abs(reacting.mean() - neutral.mean()) < 3.0


def test_people_aside_and_on_the_road_are_apart():
    world, *_ = sampled()
    person = world.agents.valid & (world.agents.kind == state.PERSON)
    d = np.abs(world.agents.d[person])
    assert ((d < 4.0) | (d > state.KERB + 0.4)).all()


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"\['cyclist'\].*free, lead, light, pedestrian, nudge"):
        families.weights(("lead", "cyclist"))
    with pytest.raises(ValueError, match="none"):
        families.weights(())


def test_adding_a_family_is_adding_an_entry(monkeypatch):
    def standing_lead(key, world):
        return world.replace(light=world.light.replace(state=np.int32(state.RED)))

    monkeypatch.setitem(families.FAMILIES, "always_red", families.Family(0.1, standing_lead))
    world, which = families.sample(jax.random.key(0), families.weights("always_red"))
    assert int(which) == 5 and bool(driver.decide(world).stop)
