"""Every named intermediate of the two small goldens, within the bounds measured on the reference itself."""

import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.models import alpamayo
from ar1_jax.policy import policy as policies
from ar1_jax.policy import prompts
from tests.goldens import compare
from tests.policy import folders

CALLS = [("r1_small", c) for c in ("main", "two_cameras", "pair", "greedy", "greedy_cut")] + [
    ("v15_small", c) for c in ("route", "pair", "guided", "guided_pair", "greedy", "greedy_cut", "answer")
]


def outcome(name, call):
    """What the package gives for a golden's call: dict or object, and the keys that are stored."""
    spec = folders.spec(name)["calls"][call]
    data = compare.arrays(name)
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith(call + "/in/")}
    xyz, rot = given["ego_history_xyz"], given["ego_history_rot"]
    scenes = [folders.scene(name, s, (xyz[i], rot[i])) for i, s in enumerate(spec["scenes"])]
    policy = folders.policy(name)
    if spec["kind"] == "trace":
        completions = [[int(t) for t in row if t >= 0] for row in given["completion_ids"]]
        got = ar1_jax.trace(policy, scenes, completions, given["noise"], spec["times"], spec["guidance"])
        return got.__getitem__
    if spec["kind"] == "plan":
        plan = policy.plan(scenes[0], spec["samples"], temperature=0, noise=given["noise"][0],
                           max_new_tokens=spec["max_new_tokens"])  # fmt: skip
        return lambda key: getattr(plan, key)
    answer = policy.answer(scenes[0], temperature=0, max_new_tokens=spec["max_new_tokens"])
    return lambda key: getattr(answer, key)


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_equals_the_reference(name, call):
    get = outcome(name, call)
    keys = [r["key"] for r in compare.manifest()[name]["rows"] if r["key"].startswith(call + "/")]
    assert keys
    for key in keys:  # in the order of computation: the first mismatch is where to look
        compare.assert_golden(name, key, get(key.split("/", 1)[1]))
    said = compare.manifest()[name]["info"].get(call, {})
    if "reasoning" in said:
        assert list(get("reasoning")) == said["reasoning"]
    if "text" in said:
        assert get("text") == said["text"]


@pytest.mark.parametrize("call", ["route", "guided"])
def test_a_plan_flows_as_the_reference(call):
    """The programs that plan (not those that trace): forced reasoning, its noise, ten steps, with and without
    guidance. The completions of both samples are those of the golden."""
    spec, data = folders.spec("v15_small")["calls"][call], compare.arrays("v15_small")
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith(call + "/in/")}
    scene = folders.scene(
        "v15_small", spec["scenes"][0], (given["ego_history_xyz"][0], given["ego_history_rot"][0])
    )
    policy, noise = folders.policy("v15_small"), given["noise"][0]
    reasoning = spec["completions"][0].split("<|cot_end|>")[0]
    plan = policy.plan(
        scene, len(noise), temperature=0, noise=noise, reasoning=reasoning, guidance=spec["guidance"]
    )
    assert [int(t) for t in given["completion_ids"][0] if t >= 0] == plan.token_ids[0].tolist()
    for key in ("actions", "trajectory_xyz", "trajectory_rot"):
        compare.assert_golden("v15_small", f"{call}/{key}", getattr(plan, key)[None])


@pytest.mark.parametrize("call", ["pair", "guided_pair"])
def test_a_batch_flows_as_the_reference(call):
    """The same for a batch of two prompts of unequal length, each with its own completion, by the stages themselves."""
    spec, data = folders.spec("v15_small")["calls"][call], compare.arrays("v15_small")
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith(call + "/in/")}
    policy, noise = folders.policy("v15_small"), given["noise"]
    config, weights = policy.config, policy.weights
    scenes = [
        folders.scene("v15_small", s, (given["ego_history_xyz"][i], given["ego_history_rot"][i]))
        for i, s in enumerate(spec["scenes"])
    ]
    encoded = [prompts.encode_scene(config, policy.templates, s) for s in scenes]
    prefix = policies.prefill(config.model, weights, prompts.batch(config, encoded, 224))
    samples = noise.shape[1]
    said = [[int(t) for t in row if t >= 0] for row in given["completion_ids"]]
    ids = np.full((2, samples, 16), config.ids.pad)
    for row, completion in zip(ids, said, strict=True):
        row[:, : len(completion)] = completion
    _, suffix = alpamayo.completion(config.model, weights, prefix, jnp.asarray(ids))
    length = jnp.asarray([[len(completion)] * samples for completion in said])
    start = prefix.next_position[:, None] + length
    options = {"steps": 10, "integrator": "euler"}
    if spec["guidance"] is None:
        got = policies.flow(config, weights, prefix, suffix, length, start, jnp.array(noise), **options)
    else:
        bare = [prompts.Encoded(prompts.drop_route(config, e.template), e.pixels, e.history) for e in encoded]
        other = policies.prefill(config.model, weights, prompts.batch(config, bare, 224))
        got = policies.guided_flow(
            config, weights, prefix, other, suffix, jnp.asarray(ids), length, start, jnp.array(noise),
            spec["guidance"], **options,
        )  # fmt: skip
    compare.assert_golden("v15_small", f"{call}/actions", np.asarray(got))
