"""Every named intermediate of the two small goldens, within the bounds measured on the reference itself."""

import pytest

import ar1_jax
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
