"""The model on the chips' kernels, run by Pallas' interpreter: `kernels=` reaches every attention of vision, prefill,
decode and flow, and the goldens hold with it within the same bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend, engines

import ar1_jax
from ar1_jax.core import errors
from ar1_jax.models import alpamayo, decoder, vision
from ar1_jax.policy import loading, prompts
from tests.goldens import compare
from tests.policy import folders, test_parity, test_scenes


@pytest.fixture
def on_tpu(monkeypatch):
    """The golden policies with kernels for TPUs, programs traced for a TPU and interpreted; -> operations that ran."""
    plain = folders.policy

    def policy(name):
        out = plain(name)
        return type(out)(
            loading.with_kernels(out.config, "pallas_tpu"), out.params, out.vocabulary, out.raw, out.vlm
        )

    monkeypatch.setattr(folders, "policy", policy)
    monkeypatch.setattr(backend, "_LOGGED", set())
    with backend.tracing_for("tpu", "TPU v6 lite", interpret=True):
        yield backend._LOGGED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "call"), [("r1_small", "pair"), ("v15_small", "guided_pair"), ("v15_small", "greedy")]
)
def test_goldens_hold_on_tpu_kernels(name, call, on_tpu):
    get = test_parity.outcome(name, call)
    for row in compare.manifest()[name]["rows"]:
        if row["key"].startswith(call + "/"):
            compare.assert_golden(name, row["key"], get(row["key"].split("/", 1)[1]))
    used = {(operation, chosen) for operation, chosen, _ in on_tpu}
    assert used == {("attention", "pallas_tpu"), ("shared_prefix_attention", "pallas_tpu")}


def test_kernels_of_the_wrong_chip_are_refused_by_name():
    policy = ar1_jax.load("nano", kernels="pallas_tpu")
    scene = test_scenes.scene()
    with pytest.raises(ValueError, match="pallas_tpu.*needs a TPU, this program is for cpu"):
        policy.plan(scene, 1, temperature=0, noise=np.zeros((1, 16, 2), np.float32))
    with pytest.raises(errors.ConfigError, match="kernels.*pallas_tpu"):
        ar1_jax.load("nano", kernels="triton")


@pytest.mark.slow
def test_nano_plans_on_the_kernels_as_without_them():
    """Vision, prompt, greedy reasoning and flow of the bundled policy."""
    noise = np.asarray(jax.random.normal(jax.random.key(0), (2, 16, 2)))
    make = lambda kernels: ar1_jax.load("nano", kernels=kernels).plan(
        test_scenes.scene(), 2, temperature=0, noise=noise, flow_steps=2, max_new_tokens=64
    )
    want = make("xla")
    with backend.tracing_for("tpu", "TPU v5 lite", interpret=True):
        got = make("pallas_tpu")
    np.testing.assert_array_equal(got.token_ids, want.token_ids)
    np.testing.assert_allclose(got.log_prob, want.log_prob, atol=2e-4)
    np.testing.assert_allclose(got.trajectory_xyz, want.trajectory_xyz, atol=2e-3)
    assert engines.attention("pallas_tpu", True) is engines.attention("pallas_tpu", True)


def test_with_weights_in_16_bits_every_attention_gets_16_bits(monkeypatch):
    """Vision, prompt, completion and expert, whose residual is float32; by shapes alone."""
    policy, seen = ar1_jax.load("nano", dtype="bfloat16"), []

    def noted(run):
        def call(*args, **kwargs):
            arrays = (*args, kwargs.get("own_k"), kwargs.get("own_v"))
            seen.append({x.dtype for x in arrays if x is not None})
            return run(*args, **kwargs)

        return call

    for module, name in ((vision, "attention"), (decoder, "attention"), (decoder, "shared_prefix_attention")):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    config, scene = policy.config, test_scenes.scene()
    prompt = prompts.batch(config, [prompts.encode_scene(config, policy.templates, scene)])
    ids, noise = jnp.zeros((1, 2, 5), int), jnp.zeros((1, 2, 16, 2))

    def velocity(params, prompt):
        prefix = alpamayo.prefill(config.model, params, prompt)
        _, suffix = alpamayo.completion(config.model, params, prefix, ids)
        length = jnp.full((1, 2), 5)
        return alpamayo.flow_velocity(config.model, params, prefix, suffix, length, noise, noise[..., 0, 0])

    assert jax.eval_shape(velocity, policy.params, prompt).dtype == jnp.float32
    assert len(seen) >= 4 and all(dtypes == {jnp.dtype("bfloat16")} for dtypes in seen)
