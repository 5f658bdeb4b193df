"""Known defects of the released RL recipe, each with the test that would have caught it. Numbers as in
docs/rl.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.metrics import comfort
from ar1_jax.models import alpamayo, grammar
from ar1_jax.rl import advantages, objectives, rewards
from ar1_jax.rl.rewards import trajectory
from tests.rl import tiny
from tests.rl.cases import PAST, WEIGHTS, combine, drive, motion, outcome, truth, turned

RED = ("red_light", None, 24)
STOP = drive(acceleration=-2.0)


def total(text, path, scene):
    return float(combine(outcome((text, path, True)), scene)[0][0, 0])


def test_d1_better_reasoning_never_earns_less():
    scene = truth("stop", "lane_keeping", RED, acceleration=-2.0)
    worse_to_better = [
        "Keep speed, nudge left: road clear.",
        "Keep speed, keep lane: road clear.",
        "Stop, keep lane: road clear.",
        "Stop, keep lane: red light within 48 m.",
        "Stop, keep lane: red light within 36 m.",
        "Stop, keep lane: red light within 24 m.",
    ]
    earned = [total(text, STOP, scene) for text in worse_to_better]
    assert all(low < high for low, high in zip(earned, earned[1:], strict=False)), earned
    # and at fixed reasoning, a trajectory further from the driver's never earns more
    far = [total(worse_to_better[-1], drive(acceleration=a), scene) for a in (-2.0, -1.8, -1.5, -1.2)]
    assert all(high > low for high, low in zip(far, far[1:], strict=False)), far


def test_d2_every_sampled_token_is_scored_and_nothing_else():
    """Sum of the learner's log-probabilities = sum of the sampler's; the first token and the last count."""
    params, prompt = tiny.params(), tiny.prompt()
    drawn = tiny.draw(params, prompt)
    mine = np.where(drawn.mask, tiny.score(params, prompt, drawn.ids), 0)
    np.testing.assert_allclose(mine.sum(-1), drawn.log_prob.sum(-1), atol=2e-4)
    assert np.all(np.asarray(drawn.mask[..., 0])) and np.all(mine[..., 0] < 0)
    # the state that predicts the first token is the prompt's last: moving it moves the loss of that token
    # alone
    prefix = alpamayo.prefill(tiny.MODEL, params, prompt)

    def first_and_rest(hidden):
        states = alpamayo.completion_hidden(tiny.MODEL, params, prefix.replace(hidden=hidden), drawn.ids)
        log_prob, _ = alpamayo.token_log_prob(
            params, states, drawn.ids, grammar.allowed(tiny.RULES, drawn.ids)
        )
        log_prob = jnp.where(drawn.mask, log_prob, 0)
        return jnp.sum(log_prob[..., 0]), jnp.sum(log_prob[..., 1:])

    first, rest = (jax.grad(lambda h, n=n: first_and_rest(h)[n])(prefix.hidden) for n in (0, 1))
    assert float(jnp.abs(first).max()) > 1e-3 and float(jnp.abs(rest).max()) == 0
    assert float(jnp.abs(jnp.where(drawn.ids == tiny.PAD, drawn.log_prob, 0)).max()) == 0


def test_d3_learner_and_sampler_agree_behind_images():
    """3-D positions: behind a 4-token image the next position is not the number of tokens; the learner must
    know."""
    params, prompt = tiny.params(), tiny.prompt()
    assert np.all(np.asarray(prompt.next_position) != np.asarray(prompt.length))
    drawn = tiny.draw(params, prompt)
    gap = lambda prompt: np.abs(
        np.where(drawn.mask, tiny.score(params, prompt, drawn.ids) - drawn.log_prob, 0)
    ).max()
    assert gap(prompt) < 5e-5
    flat = jnp.broadcast_to(jnp.arange(8), prompt.position_ids.shape)
    assert gap(prompt.replace(position_ids=flat, next_position=prompt.length)) > 1e-3  # the defect, seen


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_d4_learner_scores_at_the_samplers_temperature(temperature):
    params, prompt = tiny.params(), tiny.prompt()
    drawn = tiny.draw(params, prompt, temperature=temperature)
    ratio = np.exp(
        np.where(drawn.mask, tiny.score(params, prompt, drawn.ids, temperature) - drawn.log_prob, 0)
    )
    np.testing.assert_allclose(ratio, 1.0, atol=1e-4)
    if temperature != 1.0:
        wrong = np.exp(np.where(drawn.mask, tiny.score(params, prompt, drawn.ids) - drawn.log_prob, 0))
        assert np.abs(wrong - 1).max() > 0.05


def test_d5_stale_log_probs_give_ratios_and_clips():
    new, mask = jnp.array([[[-1.0, -2.0], [-0.5, -0.7]]]), jnp.ones((1, 2, 2), bool)
    advantage = jnp.array([[1.0, -1.0]])
    fresh = objectives.clipped(new, new, advantage, mask).metrics
    stale = objectives.clipped(new, new - 0.5, advantage, mask).metrics
    assert float(fresh["ratio_mean"]) == 1.0 and float(fresh["clip_fraction"]) == 0.0
    assert float(stale["ratio_mean"]) > 1.5 and float(stale["clip_fraction"]) == 0.5


def completion(*ids):
    return jnp.asarray(np.pad(ids, (0, 12 - len(ids))), jnp.int32)


MALFORMED = {
    "no trigger": completion(11, 10, 16, 20, 17, 21, 4),
    "one action short": completion(11, 10, 3, 16, 20, 17, 4),
    "one action more": completion(11, 10, 3, 16, 20, 17, 21, 16, 4),
    "foreign id": completion(11, 10, 3, 16, 20, 9, 21, 4),
    "other channel's id": completion(11, 10, 3, 16, 16, 17, 21, 4),
    "two triggers": completion(11, 10, 3, 3, 16, 20, 17, 21, 4),
    "empty": completion(),
    "end first": completion(4, 11, 10, 3, 16, 20, 17, 21),
    "truncated": completion(11, 12, 13, 14, 11, 12, 10, 3, 16, 20, 17, 21),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_d9_malformed_completions_are_flagged_and_floored(name):
    rules = grammar.Grammar(**{**vars(tiny.RULES), "reasoning": 6})
    _, whole = grammar.action_ids(rules, MALFORMED[name])
    assert not bool(whole)
    assert bool(grammar.action_ids(rules, completion(11, 10, 3, 16, 20, 17, 21, 4))[1])
    perfect = ("Keep speed, keep lane: road clear.", drive())
    total_, _ = rewards.combine(
        outcome((*perfect, bool(whole)), ("", drive(shift=40), True)), truth(), WEIGHTS
    )
    assert float(total_[0, 0]) == pytest.approx(rewards.floor(WEIGHTS)) and float(total_[0, 0]) < float(
        total_[0, 1]
    )


def test_d10_tokens_that_were_not_sampled_are_not_trained():
    """Forced ids, the end of a truncated completion and the padding: whatever stands there, no gradient."""
    drawn = tiny.rewarded()
    assert np.all(np.asarray(~drawn.complete).any())  # some ended by length
    forced = (drawn.ids == tiny.TRIGGER) | (drawn.ids == tiny.FUTURE_END) | (drawn.ids == tiny.PAD)
    assert not np.any(np.asarray(drawn.mask & forced))
    by_length = np.asarray(drawn.ids[..., 4] == tiny.END)
    assert by_length.any() and not np.any(np.asarray(drawn.mask[..., 4])[by_length])
    cut = jnp.asarray(
        np.asarray(drawn.mask) & (np.arange(11) < 6)
    )  # as if sampling had stopped after six ids
    other = jnp.where(jnp.arange(11) < 6, drawn.ids, 17)
    assert (
        tiny.distance(
            tiny.gradient(drawn.replace(mask=cut)), tiny.gradient(drawn.replace(mask=cut, ids=other))
        )
        < 1e-6
    )
    assert (
        tiny.distance(tiny.gradient(drawn), tiny.gradient(drawn.replace(mask=cut))) > 1e-3
    )  # the probe can see something


def test_d11_ids_reach_the_learner_as_they_were_sampled():
    """Any id sequence the grammar allows comes back from the rollout; nothing passes through text."""
    params, prompt = tiny.params(), tiny.prompt(batch=8)
    drawn = tiny.draw(params, prompt, temperature=3.0, samples=16)
    np.testing.assert_allclose(
        np.where(drawn.mask, tiny.score(params, prompt, drawn.ids, 3.0), 0), drawn.log_prob, atol=1e-4
    )
    assert len(np.unique(np.asarray(drawn.ids).reshape(-1, 11), axis=0)) > 60


def test_d12_cornering_is_felt_in_the_interior():
    """Constant radius: v^2 / R at every step; an S-curve's peak likewise."""
    signals = comfort.signals(*motion(speed=15.0, curvature=0.04))
    np.testing.assert_allclose(signals["lat_accel"], 15.0**2 * 0.04, rtol=2e-3)
    assert float(trajectory.discomfort(*motion(speed=15.0, curvature=0.04))) > 0.4
    t = np.arange(0, 65) * 0.1
    curvature = 0.06 * np.sin(2 * np.pi * t / 3.2)
    yaw = np.concatenate([[0], np.cumsum(15.0 * 0.1 * 0.5 * (curvature[1:] + curvature[:-1]))])
    steps = 1.5 * np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], -1)
    path = jnp.asarray(np.cumsum(0.5 * (steps[1:] + steps[:-1]), 0), jnp.float32)
    signals = comfort.signals(path, turned(yaw[1:]), *drive(speed=15.0, times=PAST))
    np.testing.assert_allclose(np.abs(signals["lat_accel"]).max(), 15.0**2 * 0.06, rtol=0.03)


@pytest.mark.parametrize("acceleration", [-1.0, 0.5, 2.0])
def test_d13_constant_acceleration_has_no_jerk_at_any_step(acceleration):
    found = motion(speed=12.0, acceleration=acceleration)
    signals = comfort.signals(*found)
    np.testing.assert_allclose(signals["lon_accel"], acceleration, atol=5e-3)
    for name in ("jerk", "lon_jerk"):
        assert float(jnp.abs(signals[name]).max()) < 0.2, name  # float32 positions, thrice differenced
    assert float(trajectory.discomfort(*found)) == 0.0


def test_d13_constant_curvature_has_no_artefact_at_the_end():
    lateral = comfort.signals(*motion(speed=10.0, curvature=0.02))["lat_accel"]
    np.testing.assert_allclose(lateral[-5:], 2.0, rtol=2e-3)


def test_d14_a_jump_at_the_seam_is_felt_and_penalties_are_graded():
    """Measured 10 m/s, the plan starts at 13 m/s: flagged. Twice the excess costs more, not the same."""
    feel = lambda speed: float(trajectory.discomfort(*motion(speed=speed, past={"speed": 10.0})))
    assert feel(10.0) == 0.0 < feel(13.0) < feel(16.0)
    grade = [float(trajectory.discomfort(*motion(speed=15.0, curvature=c))) for c in (0.025, 0.03)]
    assert 0 < grade[0] < grade[1] < 1


def test_d15_hairs_breadth_differences_stay_small():
    rewards_ = jnp.zeros((1, 12)).at[0, 0].set(1e-5)
    naive = (rewards_ - rewards_.mean()) / (rewards_.std() + 1e-6)
    assert float(jnp.abs(naive).max()) > 2  # the defect, so that this test is seen to see it
    for name in advantages.ADVANTAGES:
        assert float(jnp.abs(advantages.advantages(name, rewards_)).max()) < 1e-3, name
    assert not bool(advantages.active_groups(rewards_)[0])


def test_d15_one_failure_does_not_wipe_out_the_order_of_the_others():
    ade = np.linspace(0.2, 3.5, 11)
    good = [("Keep speed, keep lane: road clear.", drive(speed=10.0 + a / 3.2), True) for a in ade]
    values, _ = combine(outcome(*good, ("", drive(), False)), truth())
    advantage = advantages.advantages("dr_grpo", values)[0]
    assert np.all(np.diff(advantage[:11]) < 0) and float(advantage[0] - advantage[10]) > 0.3
    assert int(jnp.argmin(advantage)) == 11


def test_d17_placeholders_cannot_be_sampled_and_do_not_break_the_learner():
    params, prompt = tiny.params(), tiny.prompt()
    tempted = jax.tree.map(jnp.array, params)
    tempted["vlm"]["lm_head"]["kernel"] = tempted["vlm"]["lm_head"]["kernel"].at[:, tiny.IMAGE].mul(100.0)
    drawn = tiny.draw(tempted, prompt, temperature=5.0, samples=16)
    assert not np.any(np.asarray(drawn.mask & (drawn.ids == tiny.IMAGE)))
    smuggled = drawn.ids.at[0, 0, 1].set(tiny.IMAGE)  # images belong to prompts: here it is an ordinary id
    others = np.asarray(tiny.score(params, prompt, smuggled))[1:]
    assert np.all(np.isfinite(others))
    np.testing.assert_array_equal(others, np.asarray(tiny.score(params, prompt, drawn.ids))[1:])


def test_d19_an_empty_completion_trains_nothing():
    """Its mask is empty, so it adds no token to any sum, and the prompt never becomes a target."""
    drawn = tiny.rewarded()
    empty = drawn.mask.at[0, 0].set(False)
    assert int(empty[0, 0].sum()) == 0
    for recipe in (tiny.PAPER, tiny.CLIPPED):
        base = tiny.gradient(drawn.replace(mask=empty), recipe)
        other = drawn.ids.at[0, 0].set(jnp.asarray([11] * 11))
        assert tiny.distance(base, tiny.gradient(drawn.replace(mask=empty, ids=other), recipe)) < 1e-6
        nothing = tiny.gradient(drawn.replace(mask=jnp.zeros_like(empty)), recipe)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(nothing)) == 0


def test_d24_kl_losses_have_the_gradient_of_the_reverse_kl_and_k3_is_refused():
    logits, reference = jnp.array([0.3, -0.2, 0.5]), jax.nn.log_softmax(jnp.array([0.0, 0.4, -0.6]))

    def true_kl(x):
        return jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference))

    for name in objectives.KL_LOSSES:
        loss = lambda x, name=name: jnp.sum(
            jax.nn.softmax(logits) * objectives.kl_loss(name, jax.nn.log_softmax(x), reference)
        )
        np.testing.assert_allclose(jax.grad(loss)(logits), jax.grad(true_kl)(logits), atol=1e-6)
    with pytest.raises(ValueError, match="k2"):
        objectives.kl_loss("k3", logits, reference)
