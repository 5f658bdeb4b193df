"""Runs that hold adapters, read as policies: plans as with the adapters beside their base, and no base but theirs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.checkpoints import runs
from ar1_jax.core import config as configs
from ar1_jax.core import errors, trees
from ar1_jax.data import examples
from ar1_jax.models import lora
from ar1_jax.policy import adapters, prompts
from ar1_jax.rl import step
from ar1_jax.verbs import convert

RECIPE = lora.Recipe(4, 8.0, ("vlm/model/language_model/layers/.*_proj", "vlm/model/visual/blocks/attn/qkv"))
BUCKET = 128


def trained(params, seed=0):
    """Adapters as a run might leave them: no factor is zero."""
    fresh = lora.init(params, RECIPE.targets, RECIPE.rank, jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.03 * jax.random.normal(jax.random.key(x.size), x.shape), fresh)


def write_run(folder, source, params, own, **changes):
    """The folder of an `rl` run from `source`, whose parameters are params."""
    about = {"loop": {"step": 1, adapters.RECORD: adapters.record(RECIPE, source, params) | changes}}
    runs.save(folder / "checkpoints", 1, {"params": own, **about})
    (folder / "config.json").write_text(json.dumps({"policy": str(source), "steps": 1}))
    return folder


@pytest.fixture(scope="module")
def nano():
    return ar1_jax.load("nano", dtype="float32")


@pytest.fixture(scope="module")
def run(nano, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "low", "nano", nano.params, trained(nano.params))


def scores(policy, params, scene, ids):
    """The learner's log-probabilities [K, L] of sampled ids, over stacked parameters."""
    prompt = prompts.batch(
        policy.config, [prompts.encode_scene(policy.config, policy.templates, scene)], BUCKET
    )
    score = step.build_score(policy.config.model, policy.config.grammar("tokens"), 1.0)
    return np.asarray(score(params, prompt, jnp.asarray(ids)[None]))[0]


@pytest.mark.slow
def test_plans_of_the_loaded_run_are_those_of_base_and_adapters(nano, run):
    policy, scene = ar1_jax.load(run, dtype="float32"), examples.world(number=1, family="pedestrian").scene
    assert trees.flatten(policy.params).keys() == trees.flatten(nano.params).keys()
    plan = policy.plan(scene, samples=3, key=jax.random.key(0), temperature=1.0, top_p=None, decoder="tokens")
    beside = lora.attach(nano.params, trained(nano.params), RECIPE.scale)
    real = np.arange(plan.token_ids.shape[1]) < plan.lengths[:, None]
    got, base = (np.where(real, scores(nano, p, scene, plan.token_ids), 0.0) for p in (beside, nano.params))
    np.testing.assert_allclose(got, np.where(real, plan.log_prob, 0.0), atol=1e-5)
    assert np.abs(base - got).max() > 0.1


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_convert_makes_a_plain_folder_of_it(run, tmp_path):
    settings = {"source": str(run), "target": str(tmp_path / "plain")}
    assert convert.run(configs.load("configs/convert.py:huggingface", settings)) == 0
    assert not runs.is_run(tmp_path / "plain") and list((tmp_path / "plain").glob("*.safetensors"))
    same(ar1_jax.load(tmp_path / "plain", dtype="float32").params, ar1_jax.load(run, dtype="float32").params)


@pytest.mark.slow
def test_the_base_may_be_in_half_precision_or_a_run_itself(nano, run, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), nano.params)
    low = ar1_jax.load(write_run(tmp_path / "half", "nano", half, trained(half)), dtype="float32")
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32), half
    )  # summed in float32, not rounded to the base's dtype
    same(low.params, lora.merge(wide, trained(half), RECIPE.scale))
    first = ar1_jax.load(run, dtype="float32").params
    second = ar1_jax.load(write_run(tmp_path / "second", run, first, trained(first, seed=1)), dtype="float32")
    same(second.params, lora.merge(first, trained(first, seed=1), RECIPE.scale))


def test_another_base_is_refused(nano, run, tmp_path):
    other = jax.tree.map(lambda x: x + 1, nano.params)
    changed = write_run(tmp_path / "changed", "nano", other, trained(nano.params))
    with pytest.raises(errors.CheckpointError, match="trained on other parameters than nano holds"):
        ar1_jax.load(changed)
    moved = write_run(
        tmp_path / "moved", "nano", nano.params, trained(nano.params), base=str(tmp_path / "gone")
    )
    with pytest.raises(errors.CheckpointError, match="began from .*gone, which cannot be read"):
        ar1_jax.load(moved)
