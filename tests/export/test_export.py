"""Exported programs plan as the policy does, in a process that knows jax, numpy and safetensors only.

The reference is `policy.plan` in this process; sizes, digests and shapes are read from the files by other means."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import ar1_jax
from ar1_jax import main
from ar1_jax.core import config as config_lib
from ar1_jax.core import errors, trees
from ar1_jax.data import examples
from ar1_jax.export import runtime, stages, writing
from ar1_jax.models.config import ExpertConfig
from ar1_jax.policy import config as configs
from ar1_jax.policy import loading, prompts
from ar1_jax.policy import policy as policies
from ar1_jax.policy.policy import Policy
from tests.policy import folders

POLICY = ar1_jax.load("nano")
SIZES = stages.Sizes((0, 1, 2, 6), 1, 96, 160, prompt_length=160, batch=2, samples=3, max_new_tokens=40)
SETTINGS = {"temperature": 0.8, "top_p": 0.95}
CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import load, numpy
bundle = load.load(sys.argv[1])
out = bundle(**numpy.load(sys.argv[2]))
numpy.savez(sys.argv[3], **{name: numpy.asarray(value) for name, value in out.items()})
print(sorted(m for m in ("ar1_jax", "flax", "ar1_kernels", "orbax", "tokenizers") if m in sys.modules))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "nano"
    writing.write(POLICY, SIZES, folder)
    return folder


@pytest.fixture
def broken(exported, tmp_path):
    """A copy to break."""
    return pathlib.Path(shutil.copytree(exported, tmp_path / "broken"))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def edit_weights(folder, change):
    """Changes the weights and brings their digest up to date, so that only shapes and names can be wrong."""
    path, manifest = folder / "weights.safetensors", manifest_of(folder)
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_fresh_process_plans_the_same(exported, tmp_path):
    """In a prompt bucket of 160 where the policy takes 128, and layers scanned: ids are equal, the rest to rounding."""
    scenes = [examples.world(number, "pedestrian").scene for number in (1, 2)]
    key = jax.random.key(5)
    noise = np.random.default_rng(0).normal(size=(2, 3, 16, 2)).astype(np.float32)
    plans = POLICY.plan(scenes, samples=3, key=key, noise=noise, max_new_tokens=40, **SETTINGS)
    inputs = {
        "pictures": np.stack([s.images for s in scenes]),
        "history_xyz": np.stack([s.ego_history_xyz for s in scenes]),
        "history_rot": np.stack([s.ego_history_rot for s in scenes]),
        "key": np.stack([jax.random.key_data(key)] * 2), "noise": noise, "limit": 40, **SETTINGS,
    }  # fmt: skip
    np.savez(tmp_path / "in.npz", **inputs)
    words = [sys.executable, "-c", CALL, str(exported), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]", "the loader pulled in more than jax, numpy and safetensors"
    out = np.load(tmp_path / "out.npz")
    assert len({tuple(row) for row in out["ids"].reshape(6, -1)}) > 1  # the probe: something was drawn
    for row, plan in enumerate(plans):
        n = plan.token_ids.shape[1]
        np.testing.assert_array_equal(out["ids"][row, :, :n], plan.token_ids)
        np.testing.assert_array_equal(out["complete"][row], plan.complete)
        np.testing.assert_allclose(out["log_prob"][row, :, :n], plan.log_prob, atol=1e-5)
        for name in ("trajectory_xyz", "trajectory_rot", "actions", "controls"):
            np.testing.assert_allclose(out[name][row], getattr(plan, name), atol=1e-5, err_msg=name)


def test_programs_hold_no_weights(exported):
    """A program is text about shapes; the parameters it reads are ten times its size and more."""
    flat, manifest = trees.flatten(POLICY.params), manifest_of(exported)
    for name in ("prefill", "decode", "flow"):
        weights = sum(flat[path].nbytes for path in manifest["stages"][name]["weights"])
        assert (exported / f"{name}.stablehlo").stat().st_size < min(64_000, weights / 10), name
    stored = safetensors.numpy.load_file(exported / "weights.safetensors")
    assert stored.keys() == flat.keys()
    for path, x in flat.items():
        np.testing.assert_array_equal(stored[path], x)


def test_programs_of_the_released_shape_lower_for_all_platforms_and_stay_small(tmp_path):
    """11 B parameters that exist as shapes only, sixteen pictures, a prompt of 3,099 ids; 342 kB was measured."""
    golden, size = folders.policy("v15_small"), config_lib.load("configs/models.py:v1_5_10b")
    vlm = {"text_config": size.text.to_dict(), "vision_config": size.vision.to_dict()}
    vlm["text_config"]["vocab_size"] = 155_697
    expert = ExpertConfig(2048, 8256, 16, size.policy.action_in_proj_cfg.hidden_size, in_layers=2)
    model = dataclasses.replace(
        configs.read_vlm(vlm, "10b"), expert=expert, image_token_id=golden.config.ids.image_pad
    )
    config = dataclasses.replace(golden.config, model=model)
    policy = Policy(config, loading.shapes(model), golden.vocabulary, golden.raw, golden.vlm)
    assert trees.count(policy.params) > 11e9
    sizes = stages.Sizes((0, 1, 2, 6), 4, 320, 576, prompt_length=3104)
    stages.check(policy, sizes)
    made = stages.make(policy, sizes)
    abouts = [writing.program(stage, policy.params, writing.PLATFORMS, tmp_path) for stage in made.values()]
    assert sum(about["bytes"] for about in abouts) < 500_000
    path = next(i for i in abouts[1]["outputs"] if i["name"] == "prefix_k")
    assert path["shape"] == [36, 1, 8, 3104, 128]


@pytest.mark.slow
def test_programs_for_one_platform_hold_its_kernels(tmp_path):
    """Calls of the TPU compiler's own target in the program; for all platforms together there can be none."""
    policy = ar1_jax.load("nano", kernels="pallas_tpu")
    writing.write(policy, SIZES, tmp_path / "tpu", ("prefill",), ("tpu",))
    exported = jax.export.deserialize(bytearray((tmp_path / "tpu" / "prefill.stablehlo").read_bytes()))
    assert exported.platforms == ("tpu",) and "tpu_custom_call" in exported.mlir_module()
    with pytest.raises(errors.ConfigError, match="pallas_tpu.*one platform only"):
        writing.write(policy, SIZES, tmp_path / "all", ("prefill",))


@pytest.mark.slow
def test_gpu_kernels_are_those_of_the_chip_that_is_named(tmp_path):
    policy = ar1_jax.load("nano", kernels="pallas_gpu", dtype="bfloat16")
    with pytest.raises(errors.ConfigError, match="config.chip"):
        writing.write(policy, SIZES, tmp_path / "none", ("prefill",), ("cuda",))
    with pytest.raises(ValueError, match="A100"):
        writing.write(policy, SIZES, tmp_path / "old", ("prefill",), ("cuda",), "NVIDIA A100-SXM4-80GB")
    with pytest.raises(errors.ConfigError, match="one platform"):
        writing.write(POLICY, SIZES, tmp_path / "several", ("prefill",), chip="NVIDIA H200")
    programs = set()
    for chip in ("NVIDIA H200", "NVIDIA B200"):
        manifest = writing.write(policy, SIZES, tmp_path / chip, ("prefill",), ("cuda",), chip)
        module = jax.export.deserialize(
            bytearray((tmp_path / chip / "prefill.stablehlo").read_bytes())
        ).mlir_module()
        assert manifest["chip"] == chip and "mosaic_gpu_v2" in module
        programs.add(module)
    assert len(programs) == 2


def test_eight_bit_weights_travel(tmp_path):
    """Stored as int8 beside their scales; the program gives what the quantised policy gives here."""
    target = tmp_path / "int8"
    words = [
        "--config.quantization=int8",
        "--config.stages=('prompt', 'prefill')",
        "--config.platforms=('cpu',)",
    ]
    assert main.main(["--config=export", f"--config.target={target}", *words]) == 0
    bundle, scene = runtime.load(target), examples.world(3).scene
    assert bundle.weights["vlm/model/language_model/layers/mlp/up_proj/kernel/qvalue"].dtype == np.int8
    plain = sum(x.nbytes for x in jax.tree.leaves(stages.part("prefill", POLICY.params)))
    assert (target / "weights.safetensors").stat().st_size < 0.5 * plain
    out = bundle(
        pictures=scene.images[None],
        history_xyz=scene.ego_history_xyz[None],
        history_rot=scene.ego_history_rot[None],
    )
    policy = ar1_jax.load("nano", quantization="int8")
    encoded = prompts.encode_scene(policy.config, policy.templates, scene)
    prompt = prompts.batch(policy.config, [encoded], 128)
    hidden = [policies.prefill(p.config.model, p.params, prompt).hidden for p in (policy, POLICY)]
    np.testing.assert_allclose(out["hidden"], hidden[0], atol=1e-4)
    assert np.abs(out["hidden"] - hidden[1]).max() > 1e-3  # the probe


def test_the_manifest_describes_the_programs(exported):
    manifest = manifest_of(exported)
    for name, about in manifest["stages"].items():
        program = jax.export.deserialize(bytearray((exported / about["file"]).read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        weights = [manifest["weights"]["tensors"][path] for path in about["weights"]]
        told = [(t["dtype"], tuple(t["shape"])) for t in [*weights, *about["inputs"]]]
        assert told == [(a.dtype.name, a.shape) for a in program.in_avals], name
        told = [(t["dtype"], tuple(t["shape"])) for t in about["outputs"]]
        assert told == [(a.dtype.name, a.shape) for a in program.out_avals], name
    for name, about in manifest["files"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == about["sha256"], name
    assert manifest["files"].keys() >= {"config.json", "vlm/config.json", "vlm/tokenizer.json", "load.py"}


def test_a_folder_that_was_changed_is_refused(broken):
    program = broken / "decode.stablehlo"
    program.write_bytes(program.read_bytes()[:-1])
    (broken / "vlm" / "tokenizer.json").unlink()
    with pytest.raises(
        runtime.ExportError, match=r"(?s)decode.stablehlo: torn or changed.*tokenizer.json: missing"
    ):
        runtime.load(broken)
    with pytest.raises(runtime.ExportError, match="manifest.json: no such file"):
        runtime.load(broken / "vlm")


def test_weights_that_do_not_fit_are_named(broken):
    def change(tensors):
        tensors["expert/norm/weight"] = tensors["expert/norm/weight"][:-1]
        tensors["action_out_proj/bias"] = tensors["action_out_proj/bias"].astype(np.float16)
        tensors["stray"] = tensors.pop("vlm/lm_head/kernel")

    edit_weights(broken, change)
    with pytest.raises(runtime.ExportError) as error:
        runtime.load(broken)
    for part in ("expert/norm/weight is float32[", "action_out_proj/bias is float16[2], expected float32[2]",
                 "vlm/lm_head/kernel is missing", "stray is unknown"):  # fmt: skip
        assert part in str(error.value)


def test_inputs_that_do_not_fit_are_named(exported):
    bundle = runtime.load(exported)
    with pytest.raises(runtime.ExportError) as error:
        bundle.stages["prompt"](
            pictures=np.zeros((2, 4, 1, 96, 160, 3)), history_xyz=np.zeros((1, 16, 3)), speed=1.0
        )
    for part in ("pictures is float64[2, 4, 1, 96, 160, 3], expected uint8[2, 4, 1, 96, 160, 3]",
                 "history_xyz is float64[1, 16, 3], expected float32[2, 16, 3]", "history_rot is missing",
                 "speed is unknown"):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--config.stages=('prefil',)"], "config.stages: unknown 'prefil' (did you mean \"prefill\"?)"),
        (["--config.platforms=('rocm',)"], "config.platforms: unknown 'rocm'"),
        (["--config.cameras=(2, 1)", "--config.width=100"], "cameras=[2, 1]: ids in ascending order"),
        (["--config.prompt_length=64"], "prompt_length=64: these pictures make a prompt of"),
        (["--config.integrator=heun"], "integrator='heun'"),
    ],
)
def test_the_verb_refuses(words, part, tmp_path, capsys):
    assert main.main(["--config=export", f"--config.target={tmp_path / 'new'}", *words]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "mine").write_text("keep")
    for target, part in (
        (tmp_path, "not empty"),
        (tmp_path / "mine" / "new", "cannot be written"),
        ("", "empty"),
    ):
        assert main.main(["--config=export", f"--config.target={target}"]) == 2
        assert part in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_nothing_remains_of_an_export_that_failed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_weights", full)
    with pytest.raises(errors.CheckpointError, match="No space left"):
        writing.write(POLICY, SIZES, tmp_path / "new", ("prompt",))
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_what_was_asked_for(tmp_path, capsys):
    target = tmp_path / "new"
    words = ["--config.stages=('prompt', 'flow')", "--config.platforms=('tpu',)", "--config.dtype=bfloat16"]
    assert main.main(["--config=export", f"--config.target={target}", *words]) == 0
    manifest = manifest_of(target)
    assert list(manifest["stages"]) == ["prompt", "flow"] and manifest["sizes"]["prompt_length"] == 128
    tensors = manifest["weights"]["tensors"]
    assert {t["dtype"] for t in tensors.values()} == {"bfloat16"} and not any(
        p.startswith("vlm") for p in tensors
    )
    assert "flow" in capsys.readouterr().out
    with pytest.raises(runtime.ExportError, match="prompt.stablehlo: made for tpu, this is cpu"):
        runtime.load(target)
    read = runtime.read_weights(target, manifest)
    path = "expert/norm/weight"
    np.testing.assert_array_equal(read[path], trees.flatten(POLICY.params)[path].astype("bfloat16"))
