"""Sampling over a shared prefix: what is drawn, its log-probabilities, and what does not change."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.models import alpamayo
from ar1_jax.models import grammar as grammars
from ar1_jax.policy import loading, sampling
from ar1_jax.policy import policy as policies

POLICY = loading.create("nano", jax.random.key(3))
CONFIG, RNG = POLICY.config, np.random.default_rng(0)
RULES = CONFIG.grammar("tokens")


def make_scene(speed=10.0, cameras=(0, 1, 2, 6)):
    images = RNG.integers(0, 256, (len(cameras), 1, 96, 160, 3), dtype=np.uint8)
    xyz = np.zeros((16, 3), np.float32)
    xyz[:, 0] = np.arange(-15, 1) * 0.1 * speed
    return ar1_jax.Scene(images, np.array(cameras), xyz, np.tile(np.eye(3, dtype=np.float32), (16, 1, 1)))


SCENES = [make_scene(), make_scene(5.0), make_scene(8.0, cameras=(1, 6))]


def prefix_of(scenes, length=None):
    from ar1_jax.policy import prompts

    encoded = [prompts.encode_scene(CONFIG, POLICY.templates, s) for s in scenes]
    return policies.prefill(CONFIG.model, POLICY.params, prompts.batch(CONFIG, encoded, length))


def draw(prefix, keys, **options):
    options = {"samples": 3, "length": RULES.length, **options}
    return sampling.sample(CONFIG.model, RULES, POLICY.params, prefix, keys, **options)


def test_log_probabilities_are_those_of_the_learner():
    """One definition, token by token, at a temperature that is not 1."""
    prefix = prefix_of(SCENES[:2])
    done = draw(prefix, jax.random.split(jax.random.key(0), 2), temperature=0.7)
    hidden = alpamayo.completion_hidden(CONFIG.model, POLICY.params, prefix, done.ids)
    allowed = grammars.allowed(RULES, done.ids)
    log_prob, _ = alpamayo.token_log_prob(POLICY.params, hidden, done.ids, allowed, 0.7)
    np.testing.assert_allclose(np.where(done.mask, log_prob, 0), done.log_prob, atol=1e-5)
    other, _ = alpamayo.token_log_prob(POLICY.params, hidden, done.ids, allowed, 1.0)
    assert np.abs(np.where(done.mask, other - done.log_prob, 0)).max() > 0.01  # the probe


def test_every_completion_follows_the_grammar():
    done = draw(prefix_of(SCENES[:2]), jax.random.split(jax.random.key(1), 2), samples=8)
    ids, (_, whole) = np.asarray(done.ids), grammars.action_ids(RULES, done.ids)
    allowed = np.asarray(grammars.allowed(RULES, done.ids))
    inside = (ids >= allowed[..., 0]) & (ids < allowed[..., 1])
    assert whole.all() and inside[np.asarray(done.mask)].all()
    np.testing.assert_array_equal(done.mask, grammars.mask(RULES, done.ids))
    forced = np.asarray(allowed[..., 1] - allowed[..., 0] == 1) & np.asarray(done.mask)
    np.testing.assert_array_equal(np.asarray(done.log_prob)[forced], 0)


def test_a_scene_draws_the_same_whatever_is_in_the_batch():
    keys = jax.random.split(jax.random.key(2), 3)
    together = draw(prefix_of(SCENES), keys)
    for i in range(3):
        alone = draw(prefix_of([SCENES[i]]), keys[i : i + 1])
        np.testing.assert_array_equal(together.ids[i], alone.ids[0], err_msg=f"scene {i}")
    assert (np.asarray(together.ids[0]) != np.asarray(together.ids[1])).any()


def test_forced_reasoning_is_said_and_changes_the_trajectory():
    noise = RNG.normal(size=(2, 16, 2)).astype("float32")
    said = {}
    for text in (
        "Stop, keep lane: red light within 24 m.",
        "Keep speed, nudge left: stopped vehicle on the right within 24 m.",
    ):
        plan = POLICY.plan(SCENES[0], samples=2, temperature=0, noise=noise, reasoning=text)
        assert plan.reasoning == (text, text) and plan.complete.all()
        said[text] = plan.trajectory_xyz
    first, second = said.values()
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("decoder", ["flow", "tokens"])
def test_a_plan_has_its_shapes(decoder):
    plan = POLICY.plan(
        SCENES[2], samples=3, key=jax.random.key(5), decoder=decoder, temperature=1.0, top_p=None
    )
    assert plan.trajectory_xyz.shape == (3, 64, 3) and plan.trajectory_rot.shape == (3, 64, 3, 3)
    assert plan.controls.shape == plan.actions.shape == (3, 16, 2) and len(plan.reasoning) == 3
    assert np.isfinite(plan.trajectory_xyz).all() and plan.token_ids.shape == plan.log_prob.shape


def test_randomness_without_a_key_is_refused():
    with pytest.raises(ValueError, match="key=jax.random.key"):
        POLICY.plan(SCENES[0])


def test_nucleus_and_top_k_drop_what_they_should():
    """softmax of log(1..4)/10 is 0.1 0.2 0.3 0.4; a nucleus of 0.65 keeps the two largest, and so does k = 2."""
    logits = jnp.log(jnp.array([[0.4, 0.1, 0.3, 0.2]]))
    np.testing.assert_array_equal(sampling.truncate(logits, None, 0.65) > -1e29, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(sampling.truncate(logits, 2, None) > -1e29, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(sampling.truncate(logits, None, 1e-6) > -1e29, [[1, 0, 0, 0]])


@hypothesis.given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.9, 0.98, 1.0]), st.booleans())
def test_nucleus_is_that_of_the_sorted_logits(seed, top_p, ties):
    """The ids in ascending order whose masses together are at most 1 - top_p are dropped; equal logits stay or go
    together, masked ones (-1e30) have no mass, and the largest always stays."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=37) * 3
    logits = (np.round(logits) if ties else logits).astype("float32")
    logits[rng.random(37) < 0.3] = -1e30
    masses = np.exp(np.sort(logits).astype("float64") - logits.max())
    kept = np.sort(logits)[np.cumsum(masses / masses.sum()) > 1 - top_p]
    cut = kept.min() if kept.size else logits.max()
    got = sampling.truncate(jnp.asarray(logits), None, top_p)
    np.testing.assert_array_equal(np.asarray(got) > -1e29, (logits >= cut) & (logits > -1e29))
