"""One update: equal however the batch is laid out, deaf to what it must not hear, and fresh ratios are exactly one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ar1_jax.core import errors, sharding
from ar1_jax.rl import advantages, step
from tests.rl import tiny

RATE = jnp.float32(1e-3)


@pytest.mark.parametrize(
    "recipe", [tiny.PAPER, pytest.param(tiny.CLIPPED, marks=pytest.mark.slow)], ids=["paper", "clipped"]
)
def test_first_ratio_is_one_and_the_second_is_not(recipe):
    run, transform = tiny.updater(recipe)
    drawn = tiny.rewarded(batch=8)
    reference = tiny.score(tiny.params(1), drawn.prompt, drawn.ids)
    state = step.init_state(tiny.params(), transform)
    state, first = run(state, drawn, reference, jnp.float32(1e-2))
    _, second = run(state, drawn, reference, RATE)
    np.testing.assert_allclose(first["ratio_mean"], 1.0, atol=1e-5)
    assert float(first["gap_max"]) < 5e-5 and float(first["finite"]) == 1
    assert abs(float(second["ratio_mean"]) - 1) > 1e-3 and float(second["gap"]) > 1e-3


@pytest.mark.slow
def test_update_on_eight_devices_equals_one():
    run, transform = tiny.updater(tiny.CLIPPED)
    drawn, mesh = tiny.rewarded(batch=8), sharding.make_mesh()
    assert mesh.size == 8
    reference = tiny.score(tiny.params(1), drawn.prompt, drawn.ids)
    one, metrics = run(step.init_state(tiny.params(), transform), drawn, reference, RATE)
    rows, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    prompt = drawn.prompt
    cut = lambda tree: jax.device_put(tree, rows)
    spread = prompt.replace(
        **{
            name: cut(getattr(prompt, name))
            for name in ("input_ids", "length", "next_position", "image_index")
        },
        position_ids=jax.device_put(prompt.position_ids, NamedSharding(mesh, PartitionSpec(None, "data"))),
        pixels=cut(prompt.pixels),
    )
    names = ("ids", "log_prob", "mask", "complete", "rewards")
    spread = drawn.replace(prompt=spread, **{name: cut(getattr(drawn, name)) for name in names})
    state = jax.device_put(step.init_state(tiny.params(), transform), everywhere)
    eight, spread_metrics = run(state, spread, cut(reference), RATE)
    # the optimiser's moments are the gradients; the first step of Adam is their sign, which makes rounding large
    assert tiny.distance(jax.device_get(one.optimizer), jax.device_get(eight.optimizer)) < 1e-5
    assert tiny.distance(jax.device_get(one.params), jax.device_get(eight.params)) < 0.1 * float(RATE)
    for name, value in metrics.items():
        np.testing.assert_allclose(spread_metrics[name], value, atol=1e-5, err_msg=name)


def test_groups_with_equal_rewards_teach_nothing():
    drawn = tiny.rewarded()
    drawn = drawn.replace(rewards=drawn.rewards.at[:2].set(0.7))
    assert np.asarray(advantages.active_groups(drawn.rewards)).tolist() == [False, False, True, True]
    other = drawn.replace(ids=drawn.ids.at[:2].set(11))
    gradient = lambda drawn: tiny.gradient(drawn, tiny.CLIPPED)
    assert tiny.distance(gradient(drawn), gradient(other)) < 1e-7
    assert tiny.distance(gradient(drawn), gradient(drawn.replace(ids=drawn.ids.at[2:].set(11)))) > 1e-3
    equal = drawn.replace(rewards=jnp.full_like(drawn.rewards, 0.7))
    for recipe in (tiny.PAPER, tiny.CLIPPED):  # nothing but the pull to the reference is left, here none
        nothing = tiny.gradient(equal, recipe, reference=drawn.log_prob)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(nothing)) < 1e-4


def test_gradient_is_the_mean_of_two_half_batches():
    drawn = tiny.rewarded()
    reference = tiny.score(tiny.params(1), drawn.prompt, drawn.ids)
    whole = tiny.gradient(drawn, reference=reference)
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        p, first = drawn.prompt, rows.start * 4
        prompt = p.replace(
            input_ids=p.input_ids[rows], length=p.length[rows], position_ids=p.position_ids[:, rows],
            next_position=p.next_position[rows], pixels=(p.pixels[0][rows],),
            image_index=jnp.where(p.image_index[rows] >= 0, p.image_index[rows] - first, -1),
        )  # fmt: skip
        part = drawn.replace(
            prompt=prompt,
            **{n: getattr(drawn, n)[rows] for n in ("ids", "log_prob", "mask", "complete", "rewards")},
        )
        halves.append(tiny.gradient(part, reference=reference[rows]))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert tiny.distance(whole, mean) < 2e-4 and tiny.distance(whole, halves[0]) > 1e-3


def test_a_gradient_that_is_not_finite_changes_nothing():
    run, transform = tiny.updater(tiny.PAPER)
    drawn = tiny.rewarded(batch=8)
    state, metrics = run(step.init_state(tiny.params(), transform), drawn, drawn.log_prob * jnp.nan, RATE)
    assert float(metrics["finite"]) == 0 and tiny.distance(state.params, tiny.params()) == 0


def test_wrong_names_are_refused_together():
    with pytest.raises(errors.ConfigError) as caught:
        step.Recipe(name="papr", aggregation="mean", temperature=0.0)
    text = str(caught.value)
    assert 'did you mean "paper"' in text and "token-mean" in text and "temperature" in text
