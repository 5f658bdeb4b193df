"""The dial's trajectories are those of `plan`, its numbers small sums by hand, its files say what was found."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import ar1_jax
from ar1_jax import main
from ar1_jax.data import samples
from ar1_jax.evaluate import dial, quantized
from ar1_jax.policy import sizes

POLICY = ar1_jax.load("nano")
SCENES = samples.WorldSamples(POLICY, "test").take(0, 2)
LAYOUT = samples.template(POLICY, SCENES, samples.camera_ids())
KEY = jax.random.key(3)


@pytest.mark.slow
def test_trajectories_are_those_of_plan():
    """A second implementation: `plan` of one scene at a time, with the noise the dial drew and text in place of ids."""
    wanted = [dial.Setting(2, "midpoint"), dial.Setting(1, "euler", direct=True)]
    found = dial.trajectories(POLICY, LAYOUT, SCENES, wanted, batch=2, key=KEY)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 2)
    scene = ar1_jax.Scene(
        SCENES["images"][1], samples.camera_ids(), SCENES["ego_history_xyz"][1], SCENES["ego_history_rot"][1]
    )
    noise = np.asarray(jax.random.normal(keys[1], (1, 16, 2)))
    plan = lambda **given: POLICY.plan(scene, samples=1, temperature=0, noise=noise, **given)
    reasoned = plan(flow_steps=2, integrator="midpoint")
    direct = plan(flow_steps=1, reasoning="")
    assert reasoned.reasoning[0] and not direct.reasoning[0]
    np.testing.assert_allclose(found[wanted[0]][1], reasoned.trajectory_xyz[0], atol=1e-3)
    np.testing.assert_allclose(found[wanted[1]][1], direct.trajectory_xyz[0], atol=1e-3)
    assert np.abs(found[wanted[0]] - found[wanted[1]]).max() > 0.1  # the probe


def test_settings_and_gaps_by_hand():
    wanted = dial.settings((1, 4), ("euler", "midpoint"), (2,))
    assert [(str(s), s.evaluations) for s in wanted] == [
        ("euler, 1 step", 1), ("euler, 4 steps", 4), ("midpoint, 1 step", 2), ("midpoint, 4 steps", 8),
        ("euler, 2 steps, direct", 2),
    ]  # fmt: skip
    a, b = np.zeros((2, 64, 3)), np.zeros((2, 64, 3))
    b[0, :, 2] = 7.0  # height does not count
    b[1, :32, :2] = [3.0, 4.0]
    assert dial.gap(a, b) == (1.25, 5.0)


def test_calls_take_turns():
    order = []
    found = dial.interleaved({n: lambda n=n: order.append(n) for n in "ab"}, repeats=2)
    assert order == list("abababab")[:6] and all(low <= mid <= high for mid, low, high in found.values())


@pytest.mark.slow
def test_the_verb_writes_table_numbers_and_figure(tmp_path, capsys):
    dial_words = ("repeats=1", "steps=(1, 10)", "integrators=('euler',)", "direct_steps=(1,)")
    words = [f"--config.{word}" for word in ("scenes=2", "batch=2", "samples=1")]
    words += [f"--config.dial.{word}" for word in dial_words]
    assert main.main(["--config=evaluate:dial", f"--config.root={tmp_path}", *words]) == 0
    folder = tmp_path / "evaluate_dial"
    rows = json.loads((folder / "dial.json").read_text())["rows"]
    one, ten, direct = rows
    assert (one["steps"], ten["steps"], direct["direct"]) == (1, 10, True)
    assert ten["default"] == [0.0, 0.0] and ten["change"] == [0.0, 0.0, 0.0] and ten["limit"][0] > 0
    assert one["default"][0] > 0 and np.isclose(one["change"][0], one["ade"][0] - ten["ade"][0])
    page = (folder / "dial.md").read_text()
    assert f"| euler, 1 step | 1 | {one['plan'][0]:.1f} (" in page
    assert "| euler, 1 step, direct | 1 |" in capsys.readouterr().out
    assert Image.open(folder / "figures" / "dial.png").width == 1440
    assert main.main(["--config=evaluate:dial", f"--config.root={tmp_path}", "--config.table=dail"]) == 2
    assert 'did you mean "dial"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_policy_differs_from_its_rounding_and_not_from_itself():
    rounded = ar1_jax.load("nano", quantization="int8")
    gap = quantized.token_gap((POLICY, rounded), LAYOUT, SCENES, batch=2)
    rules = POLICY.config.grammar("tokens")
    # every id before the end but the trigger, which the grammar forces
    free = sum(int(np.argmax(ids == rules.future_end)) - 1 for ids in SCENES["ids"])
    assert len(gap) == free and 1e-4 < np.abs(gap).mean() < 0.05
    assert np.abs(quantized.token_gap((POLICY, POLICY), LAYOUT, SCENES, batch=2)).max() == 0


def test_bytes_of_a_size_by_hand():
    """0p5b: text D 1024, 28 layers, H 16, J 8, E 128, F 3072; vision 768 x 12, F 3072; expert D 512, H 8, F 2064."""
    layer = lambda d, h, f: 2 * d * h * 128 + 2 * d * 8 * 128 + 3 * d * f
    kernels = 28 * (layer(1024, 16, 3072) + layer(512, 8, 2064)) + 12 * (4 * 768**2 + 2 * 768 * 3072)
    kernels += 4 * (3072**2 + 3072 * 1024)  # the merger and one a tap
    outputs = lambda d, h, f: h * 128 + 2 * 8 * 128 + d + 2 * f + d
    scales = 28 * (outputs(1024, 16, 3072) + outputs(512, 8, 2064)) + 12 * (3 * 768 + 768 + 3072 + 768)
    scales += 4 * (3072 + 1024)
    plain, rounded = quantized.size_bytes("0p5b")
    assert plain - rounded == kernels - 2 * scales
    assert abs(plain / 2 - 1.05e9) < 0.01e9 and sizes.size("0p5b").d == 1024
