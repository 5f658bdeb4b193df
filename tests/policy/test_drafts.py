"""Drafts change how often the decoder runs and nothing else: ids, log-probabilities, ends are those of plain sampling.

The references: `sampling.sample`, which knows no drafts, and by hand enumerated probabilities of a tiny vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.models import alpamayo
from ar1_jax.models.config import ModelConfig, TextConfig, VisionConfig
from ar1_jax.models.grammar import Grammar
from ar1_jax.policy import drafts, sampling
from tests.goldens import compare
from tests.policy import folders, test_combinations

POLICY, SCENES = test_combinations.POLICY, test_combinations.SCENES
RULES = POLICY.config.grammar("tokens")
MODEL = ModelConfig(
    TextConfig(16, 32, 2, 2, 1, 8, 12, (2, 1, 1)), VisionConfig(1, 16, 16, 2, 16, 16, ()), None, 0
)
FREE = Grammar(words=(4, 12), cot_end=3, trigger=3, future_end=2, end_of_turn=4, pad=0, strict=False)
PARAMS = jax.jit(alpamayo.init_params, static_argnums=0)(MODEL, jax.random.key(0))


def tiny_prefix(scenes=2, tokens=5):
    """Prefixes of random text prompts of unequal lengths for MODEL."""
    ids = jax.random.randint(jax.random.key(1), (scenes, tokens), 4, 12)
    lengths = jnp.arange(tokens, tokens - scenes, -1)
    at = jnp.broadcast_to(jnp.arange(tokens), (3, scenes, 1, tokens))
    hidden, cache = alpamayo.decode(MODEL, PARAMS, alpamayo.embed(PARAMS, ids)[:, None], at, lengths=lengths)
    last = jnp.take_along_axis(hidden[:, 0], lengths[:, None, None] - 1, axis=1)[:, 0]
    rows = jax.tree.map(lambda c: c[:, :, 0], cache)
    return alpamayo.Prefix(rows, lengths, lengths, last, jnp.zeros((1, 16)))


PREFIX, KEYS = tiny_prefix(), jax.random.split(jax.random.key(5), 2)
LENGTH = 12
SETTINGS = {
    "greedy": {"greedy": True},
    "temperature": {"temperature": 1.7},
    "nucleus and top k": {"temperature": 1.3, "top_p": 0.9, "top_k": 6},
    "limit": {"temperature": 1.7, "limit": 7},
}


def draw(draft=None, width=4, samples=3, **options):
    if draft is None:
        return sampling.sample(MODEL, FREE, PARAMS, PREFIX, KEYS, samples=samples, length=LENGTH, **options)
    return drafts.sample(
        MODEL, FREE, PARAMS, PREFIX, KEYS, draft, samples=samples, length=LENGTH, width=width, **options
    )


def guessed(kind, done):
    """Earlier completions that are right, wrong, or right but for every third id."""
    ids, lengths = np.asarray(done.ids), np.asarray(done.lengths)
    other = (ids - 4 + 1) % 8 + 4
    ids = {"right": ids, "wrong": other, "partly": np.where(np.arange(LENGTH) % 3 == 2, other, ids)}[kind]
    return drafts.of_completions(list(zip(ids, lengths, strict=True)), LENGTH)


def assert_same(got, want):
    for name in ("ids", "mask", "complete", "lengths"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    np.testing.assert_allclose(got.log_prob, want.log_prob, atol=1e-5)
    live = np.asarray(want.mask)[None, :, :, None, :, None]
    for one, other in zip(jax.tree.leaves(got.suffix), jax.tree.leaves(want.suffix), strict=True):
        np.testing.assert_allclose(one * live, other * live, atol=1e-5)


@pytest.mark.parametrize("kind", ["right", "wrong", "partly"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_any_draft_gives_the_completions_of_plain_sampling(settings, kind):
    options = SETTINGS[settings]
    plain = draw(**options)
    got = draw(guessed(kind, plain), **options)
    assert_same(got, plain)
    assert len(np.unique(plain.lengths)) > 1 or settings in (
        "greedy",
        "limit",
    )  # rows end at different places
    assert int(got.rounds) <= int(plain.rounds)


def test_rounds_are_fewer_the_better_the_draft():
    plain = draw(temperature=1.7)
    longest = int(plain.lengths.max())
    assert int(plain.rounds) == longest
    right, partly, wrong = (
        int(draw(guessed(kind, plain), temperature=1.7).rounds) for kind in ("right", "partly", "wrong")
    )
    assert right < partly < wrong <= longest
    whole = draw(guessed("right", plain), width=LENGTH, samples=3, greedy=True)
    assert int(whole.rounds) < int(draw(greedy=True).rounds)


def test_what_is_drawn_has_the_probabilities_of_the_model():
    """First two ids of 6,000 samples against their probabilities, enumerated; the draft is right in some and wrong in
    others. Chi-square with 8 · 8 cells; the bound is far beyond the 99.9 % quantile and far below a wrong rule's."""
    temperature, samples = 1.5, 3000
    fixed = np.full((2, 1, LENGTH), 7)
    draft = drafts.of_completions([(row, [LENGTH]) for row in fixed], LENGTH)
    done = draw(draft, samples=samples, temperature=temperature, limit=2)
    first = jnp.arange(4, 12)
    ids = jnp.broadcast_to(jnp.stack([first, first], axis=-1), (2, 8, 2))
    hidden = alpamayo.completion_hidden(MODEL, PARAMS, PREFIX, ids)
    words = jnp.array(FREE.words)
    logits = jnp.where(jnp.arange(12) >= words[0], alpamayo.logits(PARAMS, hidden) / temperature, -jnp.inf)
    p = np.asarray(jax.nn.softmax(logits, axis=-1))[..., 4:]
    expected = p[:, 0, 0][:, :, None] * p[:, :, 1]  # [B, first, second]
    for b in range(2):
        drawn = np.asarray(done.ids[b]) - 4
        whole = drawn[drawn[:, 0] > 0]  # id 4 ends a turn
        seen = np.zeros((8, 8))
        np.add.at(seen, (whole[:, 0], whole[:, 1]), 1)
        want = expected[b, 1:].reshape(-1) * samples
        seen = seen[1:].reshape(-1)
        ends = (drawn[:, 0] == 0).sum(), expected[b, 0].sum() * samples
        chi = ((seen - want) ** 2 / want).sum() + (ends[0] - ends[1]) ** 2 / ends[1]
        assert chi < 110, chi  # 56 degrees of freedom, 99.9 % quantile 94
        assert (
            np.abs(p[b, :, 1, 3] - p[b, 0, 0, 3]).max() > 0.01
        )  # the probe: the second id depends on the first


def test_a_scene_draws_the_same_whatever_is_in_the_batch():
    plain = draw(temperature=1.7)
    one = jax.tree.map(lambda x: x, tiny_prefix())
    first = alpamayo.Prefix(
        jax.tree.map(lambda c: c[:, :1], one.cache),
        one.length[:1],
        one.next_position[:1],
        one.hidden[:1],
        one.image_tokens,
    )
    draft = drafts.of_completions([(np.asarray(plain.ids[0]), np.asarray(plain.lengths[0]))], LENGTH)
    alone = drafts.sample(
        MODEL, FREE, PARAMS, first, KEYS[:1], draft, samples=3, length=LENGTH, width=4, temperature=1.7
    )
    np.testing.assert_array_equal(alone.ids[0], plain.ids[0])


def test_the_longest_find_wins_then_the_nearest():
    """Text 5 6 7 8 | 9 6 7 4: behind .. 6 7 stands 8 where 5 comes before it, 4 where 9 does."""
    text = jnp.array([[5, 6, 7, 8, -1, 9, 6, 7, 4, 4]])
    draft = drafts.Draft(text, jnp.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]))
    look = lambda *ids: drafts.look_up(
        draft, jnp.pad(jnp.array([[ids]]), ((0, 0), (0, 0), (0, 8 - len(ids)))), jnp.array([[len(ids)]]), 2
    )[0, 0].tolist()
    assert look(5, 6, 7)[0] == 8 and look(9, 6, 7) == [4, 4]
    assert look(5) == [6, 7] and look(9) == [6, 7]
    assert look(11, 10, 11)[0] == 10  # its own text, where nothing earlier knows the id


@pytest.mark.parametrize("draft", ["previous", "ngram"])
@pytest.mark.parametrize(
    "options", [{"reasoning": "Stop."}, {"guidance": 1.5}, {"decoder": "tokens"}, {"batch": 2}], ids=str
)
@pytest.mark.slow
def test_a_plan_with_a_draft_is_the_plan_without(draft, options):
    scenes = SCENES if "batch" in options else SCENES[0]
    options = {"samples": 2, "key": jax.random.key(7), "flow_steps": 1, **options}
    options.pop("batch", None)
    plain = POLICY.plan(scenes, **options)
    got = POLICY.plan(scenes, draft=plain if draft == "previous" else draft, **options)
    for a, b in zip(*([x] if not isinstance(x, list) else x for x in (got, plain)), strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_array_equal(a.complete, b.complete)
        np.testing.assert_allclose(a.log_prob, b.log_prob, atol=1e-5)
        np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)
        assert a.rounds <= b.rounds if draft == "ngram" else a.rounds < b.rounds / 2


@pytest.mark.parametrize(
    ("name", "call"), [pytest.param("r1_small", "greedy", marks=pytest.mark.slow), ("v15_small", "greedy")]
)
@pytest.mark.slow
def test_greedy_ids_are_the_references_with_any_draft(name, call):
    spec, data = folders.spec(name)["calls"][call], compare.arrays(name)
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith(call + "/in/")}
    scene = folders.scene(name, spec["scenes"][0], (given["ego_history_xyz"][0], given["ego_history_rot"][0]))
    plan = lambda draft: folders.policy(name).plan(
        scene,
        spec["samples"],
        temperature=0,
        noise=given["noise"][0],
        draft=draft,
        max_new_tokens=spec["max_new_tokens"],
    )
    first = plan("ngram")
    again, wrong = plan(first), plan(first.replace(token_ids=first.token_ids + 1))
    for got in (first, again, wrong):
        compare.assert_golden(name, f"{call}/token_ids", got.token_ids)
        compare.assert_golden(name, f"{call}/actions", got.actions)
    assert again.rounds == 1 < wrong.rounds
