"""Batch, samples, guidance and decoder in every combination: each works and equals the plans of single scenes.

The reference crashes in some of them (inference.md section 11); each of these has a test on a release's layout."""

import dataclasses
import itertools
import logging

import jax
import numpy as np
import pytest

import ar1_jax
from ar1_jax import actions
from ar1_jax.core import errors
from ar1_jax.models import alpamayo
from ar1_jax.policy import loading
from ar1_jax.policy import policy as policies
from ar1_jax.policy.policy import Policy
from tests.goldens import compare
from tests.policy import folders

RNG = np.random.default_rng(0)
KEY = jax.random.key(4)


def small():
    """nano with one layer: programs that compile fast."""
    whole = loading.create("nano", jax.random.key(3))
    text = dataclasses.replace(whole.config.model.text, num_hidden_layers=1)
    model = dataclasses.replace(whole.config.model, text=text)
    params = jax.jit(alpamayo.init_params, static_argnums=0)(model, jax.random.key(1))
    config = dataclasses.replace(whole.config, model=model)
    return Policy(config, params, whole.vocabulary, whole.raw, whole.vlm)


POLICY = small()


def make_scene(cameras, route):
    images = RNG.integers(0, 256, (len(cameras), 1, 96, 160, 3), dtype=np.uint8)
    xyz = np.zeros((16, 3), np.float32)
    xyz[:, 0] = np.arange(-15, 1)
    rot = np.tile(np.eye(3, dtype=np.float32), (16, 1, 1))
    return ar1_jax.Scene(images, np.array(cameras), xyz, rot, route)


SCENES = [make_scene((0, 1, 2, 6), "Turn left in 40 m"), make_scene((1, 6), "Go straight")]


@pytest.mark.parametrize(
    ("samples", "guidance", "decoder"),
    [*itertools.product((1, 3), (None, 1.5), ("flow",)), *itertools.product((1, 3), (None,), ("tokens",))],
)
@pytest.mark.slow
def test_a_batch_equals_its_scenes(samples, guidance, decoder):
    """One flow step: the field of a fresh expert is so rough that ten steps amplify rounding without bound."""
    options = {"samples": samples, "guidance": guidance, "decoder": decoder, "key": KEY, "flow_steps": 1}
    plans = POLICY.plan(SCENES, **options)
    assert len(plans) == 2
    for scene, plan in zip(SCENES, plans, strict=True):
        alone = POLICY.plan(scene, **options)
        assert plan.reasoning == alone.reasoning and len(plan.reasoning) == samples
        np.testing.assert_array_equal(plan.token_ids, alone.token_ids)
        np.testing.assert_allclose(plan.log_prob, alone.log_prob, atol=1e-5)
        np.testing.assert_allclose(plan.actions, alone.actions, atol=1e-5)
        np.testing.assert_allclose(plan.trajectory_xyz, alone.trajectory_xyz, atol=1e-3)
    assert not np.array_equal(plans[0].token_ids, plans[1].token_ids)


def test_fewer_samples_are_the_first_of_many():
    """What a sample draws depends on its own index and on nothing else of the call."""
    few, many = (POLICY.plan(SCENES[0], samples=k, key=KEY, decoder="tokens") for k in (1, 3))
    np.testing.assert_array_equal(few.token_ids[0, : few.lengths[0]], many.token_ids[0, : many.lengths[0]])


def test_guidance_is_the_weighted_sum_of_both_prompts_fields():
    """Weights 1 and 0 are the plans of the prompts with and without the route, whose reasoning is the same."""
    noise = RNG.normal(size=(1, 16, 2)).astype("float32")
    said = "Keep speed, keep lane."
    plan = lambda scene, **options: POLICY.plan(
        scene, samples=1, temperature=0, noise=noise, reasoning=said, flow_steps=1, **options
    )
    with_route, without = plan(SCENES[0]).actions, plan(SCENES[0].replace(route=None)).actions
    assert np.abs(with_route - without).max() > 1e-3
    for weight in (0.0, 1.0, 1.5):
        want = weight * with_route + (1 - weight) * without
        np.testing.assert_allclose(plan(SCENES[0], guidance=weight).actions, want, atol=2e-5)


def test_guidance_reads_one_prompt_more_and_asks_the_field_once(monkeypatch):
    """Counted: calls of the prefill, and evaluations of the field in the traced program."""
    reads, evaluations = [], []
    prefill, velocity = policies.prefill, policies.expert.velocity
    monkeypatch.setattr(policies, "prefill", lambda *a: reads.append(a[2].input_ids.shape) or prefill(*a))
    monkeypatch.setattr(
        policies.expert, "velocity", lambda *a: evaluations.append(a[2].shape) or velocity(*a)
    )
    POLICY.plan(SCENES, samples=2, key=KEY, guidance=1.5, flow_steps=3)
    assert len(reads) == 2 and reads[0] == reads[1] and reads[0][0] == 2
    assert evaluations == [(4, 2, 16, 2)]


# --- what crashed in the reference ----------------------------------------------------------------------------------


NAMES = ("route", "route_long")


def released(*names):
    """Scenes of the Alpamayo 1.5 golden with the histories of its call guided_pair."""
    data = compare.arrays("v15_small")
    xyz, rot = (data[f"guided_pair/in/ego_history_{part}"] for part in ("xyz", "rot"))
    return [folders.scene("v15_small", name, (xyz[i % 2], rot[i % 2])) for i, name in enumerate(names)]


@pytest.mark.slow
def test_guidance_with_two_scenes_and_three_samples():
    """Reference: RuntimeError, its rope offsets are not repeated by K (defect 3)."""
    policy, scenes = folders.policy("v15_small"), released(*NAMES)
    options = {"samples": 3, "guidance": 1.5, "key": KEY, "max_new_tokens": 8}
    for scene, plan in zip(scenes, policy.plan(scenes, **options), strict=True):
        alone = policy.plan(scene, **options)
        np.testing.assert_array_equal(plan.token_ids, alone.token_ids)
        np.testing.assert_allclose(plan.actions, alone.actions, atol=1e-4)
        assert np.isfinite(plan.trajectory_xyz).all()


@pytest.mark.slow
def test_guidance_needs_nothing_but_its_weight():
    """Reference: ValueError with the plain sampler, which has no second field."""
    policy, (scene, _) = folders.policy("v15_small"), released(*NAMES)
    options = {"samples": 1, "key": KEY, "max_new_tokens": 8}
    plain, guided = policy.plan(scene, **options), policy.plan(scene, guidance=3.0, **options)
    np.testing.assert_array_equal(plain.token_ids, guided.token_ids)
    assert np.abs(plain.actions - guided.actions).max() > 1e-3


def test_guidance_without_a_route_is_refused_before_anything_runs(monkeypatch):
    """Reference: ValueError from deep inside after the reasoning is done (defect 4)."""
    policy = folders.policy("v15_small")
    monkeypatch.setattr(policies, "prefill", None)
    with pytest.raises(errors.SceneError, match="guidance: the scene has no route"):
        policy.plan(released("route", "plain"), samples=1, key=KEY, guidance=1.5, max_new_tokens=8)


@pytest.mark.parametrize("options", [{"guidance": 1.5}, {"noise": np.zeros((1, 16, 2), "float32")}])
def test_what_only_the_flow_reads_is_refused_for_action_ids(options):
    with pytest.raises(ValueError, match="the flow's"):
        POLICY.plan(SCENES[0], samples=1, key=KEY, decoder="tokens", **options)


@pytest.mark.slow
def test_scenes_of_unequal_prompts_do_not_read_each_others_padding():
    """Reference, Alpamayo 1: the expert attends to the left padding of the shorter prompt (defect 2)."""
    data, policy = compare.arrays("r1_small"), folders.policy("r1_small")
    xyz, rot = (data[f"pair/in/ego_history_{part}"] for part in ("xyz", "rot"))
    scenes = [folders.scene("r1_small", n, (xyz[i], rot[i])) for i, n in enumerate(("two_cameras", "main"))]
    options = {"samples": 2, "temperature": 0, "max_new_tokens": 8, "key": KEY}
    for scene, plan in zip(scenes, policy.plan(scenes, **options), strict=True):
        np.testing.assert_allclose(plan.actions, policy.plan(scene, **options).actions, atol=1e-4)


# --- without reasoning, without trigger -----------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["flow", "tokens"])
def test_an_empty_reasoning_goes_straight_to_the_actions(decoder):
    plan = POLICY.plan(SCENES[0], samples=2, key=KEY, reasoning="", decoder=decoder)
    ids = POLICY.config.ids
    assert plan.reasoning == ("", "") and plan.complete.all()
    np.testing.assert_array_equal(plan.token_ids[:, :2], [[ids.cot_end, ids.future_start]] * 2)
    assert (plan.lengths == (2 if decoder == "flow" else 2 + 2 * 16 + 1)).all()


def test_a_reasoning_that_is_cut_plans_all_the_same_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        plans = folders.policy("v15_small").plan(released(*NAMES), samples=2, key=KEY, max_new_tokens=3)
    said = [r.getMessage() for r in caplog.records if "by themselves" in r.getMessage()]
    assert said == ["4 of 4 reasonings did not end by themselves"]
    for plan in plans:
        assert (
            not plan.complete.any() and (plan.lengths == 3).all() and np.isfinite(plan.trajectory_xyz).all()
        )


@pytest.mark.slow
def test_a_release_never_reasons_in_trajectory_ids():
    """At a temperature where every id comes up; behind the trigger the action ids are the only ones allowed."""
    policy, (scene, _) = folders.policy("v15_small"), released(*NAMES)
    ids = policy.config.ids
    inside = lambda x: (x >= ids.trajectory) & (x < ids.trajectory + ids.trajectory_count)
    hot = policy.plan(scene, samples=16, key=KEY, temperature=50.0, top_p=None, max_new_tokens=60)
    assert not inside(hot.token_ids).any() and len(np.unique(hot.token_ids)) > 400
    codec = actions.FutureCodecConfig(action_space=policy.config.unicycle, num_bins=ids.trajectory_count)
    config = dataclasses.replace(policy.config, future=codec)
    decoding = Policy(config, policy.params, policy.vocabulary, policy.raw, policy.vlm)
    plan = decoding.plan(
        scene, samples=2, key=KEY, decoder="tokens", reasoning="Keep lane.", temperature=50.0
    )
    behind = [row[list(row).index(ids.future_start) + 1 :] for row in plan.token_ids]
    assert plan.complete.all() and all(
        inside(row[:128]).all() and row[128] == ids.future_end for row in behind
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"draft": "plan"}, "draft: "),
        ({"draft": "ngram", "draft_width": 0}, "draft_width=0"),
        ({"draft": []}, "one Plan for each of 1 scenes"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        POLICY.plan(SCENES[0], samples=1, key=KEY, **options)
