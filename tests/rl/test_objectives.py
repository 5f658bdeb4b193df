"""Against published numbers: two reference implementations agree on them to the last digit (float64)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.rl import advantages, objectives

LENGTHS = (3, 2, 4)
ADVANTAGES = np.array([[0.8, -1.2, 0.4]], "float32")
MASK = np.array([[[n < length for n in range(4)] for length in LENGTHS]])


def padded(rows, fill=-9.0):
    """Three unequal rows -> [1, 3, 4]; the padding holds nonsense that must not be read."""
    return np.array([[list(row) + [fill] * (4 - len(row)) for row in rows]], "float32")


NEW = padded([(-1.0, -0.5, -2.0), (-0.3, -1.2), (-0.9, -0.1, -1.5, -0.7)])
OLD = padded([(-1.4, -0.5, -1.8), (-0.2, -2.6), (-0.9, -0.6, -1.1, -0.7)], fill=-3.0)
REF = padded([(-1.1, -0.9, -1.5), (-0.6, -1.0), (-0.5, -0.2, -1.9, -1.0)], fill=-5.0)
SAMPLER = OLD - 0.3 * padded([(1, -1, 1), (1, 1), (-1, 1, 1, -3)], fill=2.0)


def clipped(**options):
    return objectives.clipped(NEW, OLD, ADVANTAGES, MASK, **options)


@pytest.mark.parametrize(
    ("aggregation", "dual_clip", "expected"),
    [
        ("token-mean", 3.0, 0.069632),
        ("token-mean", 10.0, 0.210326),
        ("sequence-mean-token-mean", 3.0, 0.373847),
        ("sequence-mean-token-mean", 10.0, 0.584887),
        ("sequence-mean-token-sum", 3.0, 0.208897),
        ("sequence-mean-token-sum", 10.0, 0.630977),
        ("sequence-mean-token-sum-norm", 3.0, 0.052224),
        ("sequence-mean-token-sum-norm", None, 0.157744),
    ],
)
def test_clipped_loss_of_every_aggregation(aggregation, dual_clip, expected):
    loss = clipped(aggregation=aggregation, dual_clip=dual_clip).loss
    np.testing.assert_allclose(loss, expected, atol=2e-6)


def test_clipped_loss_token_by_token():
    ratios = objectives.ratio(NEW, OLD)
    losses, _, _ = objectives.clipped_tokens(
        ratios, ADVANTAGES[..., None], clip_low=0.2, clip_high=0.28, dual_clip=None
    )
    expected = [-1.024, -0.8, -0.654985, 1.085805, 4.86624, -0.4, -0.512, -0.268128, -0.4]
    np.testing.assert_allclose(np.asarray(losses)[MASK], expected, atol=2e-6)
    dual, _, _ = objectives.clipped_tokens(
        ratios, ADVANTAGES[..., None], clip_low=0.2, clip_high=0.28, dual_clip=3.0
    )
    np.testing.assert_allclose(np.asarray(dual)[MASK][3:5], [1.085805, 3.6], atol=2e-6)


def test_fractions_count_where_a_clip_acts():
    metrics = clipped().metrics
    np.testing.assert_allclose(metrics["clip_fraction"], 2 / 9, atol=1e-6)
    np.testing.assert_allclose(metrics["dual_clip_fraction"], 1 / 9, atol=1e-6)


def test_sequence_ratio_and_capped_ratio():
    np.testing.assert_allclose(
        objectives.sequence_clipped(NEW, OLD, ADVANTAGES, MASK).loss, 0.366056, atol=2e-6
    )
    np.testing.assert_allclose(objectives.capped(NEW, OLD, ADVANTAGES, MASK).loss, -0.098917, atol=2e-6)


def test_kl_values_and_their_loss():
    mean = lambda values: objectives.aggregate("token-mean", values, MASK)
    np.testing.assert_allclose(mean(objectives.kl_k1(NEW, REF)), 0.055556, atol=2e-6)
    np.testing.assert_allclose(mean(objectives.kl_k2(NEW, REF)), 0.053889, atol=2e-6)
    np.testing.assert_allclose(mean(objectives.kl_k3(NEW, REF)), 0.054878, atol=2e-6)
    np.testing.assert_allclose(clipped().loss + 0.04 * mean(objectives.kl_k3(NEW, REF)), 0.071828, atol=2e-6)
    # the unbiased form of the published number weighs k3 by learner / behaviour
    weighted = objectives.ratio(NEW, OLD) * objectives.kl_k3(NEW, REF)
    np.testing.assert_allclose(mean(weighted), 0.056753, atol=2e-6)
    np.testing.assert_allclose(clipped().loss + 0.04 * mean(weighted), 0.071903, atol=2e-6)


def test_decoupled_loss_weighs_tokens_by_old_over_sampler():
    weights = objectives.sampler_correction(OLD, SAMPLER)
    np.testing.assert_allclose(clipped(correction=weights).loss, 0.217123, atol=2e-6)
    dropped = objectives.sampler_correction(OLD, SAMPLER, cap=1.2)
    np.testing.assert_array_equal(np.asarray(dropped)[MASK] > 0, np.exp(OLD - SAMPLER)[MASK] <= 1.2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", (1.566693, -1.218539, -0.174077, -0.174077)),
        ("grpo_unbiased_std", (1.356797, -1.055287, -0.150755, -0.150755)),
        ("dr_grpo", (0.45, -0.35, -0.05, -0.05)),
        ("rloo", (0.6, -0.466667, -0.066667, -0.066667)),
    ],
)
def test_advantages(name, expected):
    rewards = jnp.array([[1.0, 0.2, 0.5, 0.5]])
    np.testing.assert_allclose(advantages.advantages(name, rewards)[0], expected, atol=1e-5)


LOGITS, REFERENCE = jnp.array([0.3, -0.2, 0.5]), jnp.array([0.0, 0.4, -0.6])


def expected_gradient(estimator):
    """Exact expectation over the three outcomes of the gradient of estimator(log p(y), log q(y))."""
    probabilities = jax.nn.softmax(LOGITS)
    loss = lambda logits: jnp.sum(
        probabilities * estimator(jax.nn.log_softmax(logits), jax.nn.log_softmax(REFERENCE))
    )
    return jax.grad(loss)(LOGITS)


REVERSE = (-0.0539, -0.2257, 0.2797)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (objectives.kl_k1, (0.0, 0.0, 0.0)),
        (objectives.kl_k2, REVERSE),
        (objectives.kl_k3, (0.0247, -0.2762, 0.2514)),
        (objectives.kl_ratio_k3, REVERSE),
    ],
)
def test_expected_gradient_of_kl_estimators(estimator, expected):
    np.testing.assert_allclose(expected_gradient(estimator), expected, atol=1e-4)


def test_true_reverse_kl_gradient_is_the_tables():
    def divergence(logits):
        log_p = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(REFERENCE)))

    np.testing.assert_allclose(jax.grad(divergence)(LOGITS), REVERSE, atol=1e-4)


def test_paper_objective_by_hand():
    """One group: w = softmax(2 r); loss = sum_i w_i (-sum_t log p + 0.1 sum_t d^2 / 2), written with
    loops."""
    rewards = np.array([[0.9, 0.1, 0.4]])
    raw = np.exp(2.0 * rewards[0])
    expected = 0.0
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            difference = NEW[0, i, t] - REF[0, i, t]
            expected += raw[i] / raw.sum() * (-NEW[0, i, t] + 0.1 * difference**2 / 2)
    weights = advantages.softmax_weights(rewards, 2.0)
    loss = objectives.paper(NEW, REF, weights, MASK, kl_coef=0.1).loss
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # the baseline is taken from the likelihood's weights, not from the pull to the reference
    shifted = objectives.paper(NEW, REF, weights, MASK, baseline=1 / 3, kl_coef=0.1).loss
    np.testing.assert_allclose(shifted, expected + NEW[MASK].sum() / 3, rtol=1e-5)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "grpo"])
def test_bandit_gradient_is_the_analytic_one(name):
    """Three arms, rewards known: the clipped objective's expected gradient at ratio 1 over all groups of
    two."""
    arm_rewards, probabilities = jnp.array([1.0, 0.2, 0.5]), jax.nn.softmax(LOGITS)
    pairs = jnp.array([(i, j) for i in range(3) for j in range(3)])
    chance = probabilities[pairs[:, 0]] * probabilities[pairs[:, 1]]
    adv = advantages.advantages(name, arm_rewards[pairs], std_floor=0.05)

    def loss(logits):
        log_prob = jax.nn.log_softmax(logits)[pairs][..., None]
        per_pair = jax.vmap(
            lambda new, a: (
                objectives.clipped(
                    new[None], jax.lax.stop_gradient(new)[None], a[None], jnp.ones((1, 2, 1), bool)
                ).loss
            )
        )(log_prob, adv)
        return jnp.sum(chance * per_pair)

    gradient = jax.grad(loss)(LOGITS)
    analytic = np.zeros(3)
    for (i, j), weight, a in zip(np.asarray(pairs), np.asarray(chance), np.asarray(adv), strict=True):
        for arm, advantage in ((i, a[0]), (j, a[1])):
            analytic -= weight * 0.5 * advantage * (np.eye(3)[arm] - np.asarray(probabilities))
    np.testing.assert_allclose(gradient, analytic, atol=1e-6)
    assert np.abs(analytic).max() > 1e-3  # the probe can see something


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="token-mean"):
        objectives.aggregate("mean", NEW, MASK)
    with pytest.raises(ValueError, match="dr_grpo"):
        advantages.advantages("gae", ADVANTAGES)
