"""Folders of safetensors: bit for bit both ways, and one clear error for each way to be broken."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import ar1_jax
from ar1_jax.checkpoints import huggingface, tensor_files
from ar1_jax.core import errors
from ar1_jax.policy import loading, sizes
from tests.policy import folders


@pytest.fixture
def broken(tmp_path):
    """A copy of the three-shard golden to break."""
    return pathlib.Path(shutil.copytree(folders.folder("v15_small"), tmp_path / "checkpoint"))


def refused(folder, *parts):
    with pytest.raises(errors.CheckpointError) as caught:
        ar1_jax.load(folder)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_reading_and_writing_gives_the_same_tensors(tmp_path):
    source = folders.folder("r1_small")
    folders.policy("r1_small").save(tmp_path / "copy")
    want = safetensors.numpy.load_file(source / "model.safetensors")
    got = safetensors.numpy.load_file(tmp_path / "copy" / "model.safetensors")
    parameters = {name for name in want if not huggingface.names.BUFFERS.fullmatch(name)}
    assert set(got) == parameters
    for name in parameters:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_nano_survives_its_folder(tmp_path):
    policy = loading.create("nano", jax.random.key(0))
    policy.save(tmp_path / "nano", {"metrics.json": "{}"})
    again = ar1_jax.load(tmp_path / "nano")
    assert again.config == policy.config
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)


@pytest.mark.parametrize(("name", "count"), [("r1_10b", 1159), ("v1_5_10b", 1159)])
def test_the_released_shapes_map_both_ways(name, count):
    """11,078,526,194 parameters in 1,159 tensors (Alpamayo 1 stores seven buffers more), by shapes alone."""
    raw, vlm = sizes.policy_config(name), sizes.vlm_config(sizes.size(name))
    ids = folders.policy("r1_small").config.ids
    ids = type(ids)(**{**ids.__dict__, "size": 155_697})
    from ar1_jax.policy import config as configs

    config = configs.build(raw, vlm, ids, raw["model_type"], pathlib.Path("config.json"))
    shapes = loading.shapes(config.model)
    total = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    wanted = huggingface.tensors(shapes, loading.patch_shape(config.model), config.model.expert.in_layers)
    assert total == 11_078_526_194 and len(wanted) == count
    layout = tensor_files.plan([(tensor, "BF16", shape) for tensor, (_, _, shape) in wanted.items()])
    assert [len(header.entries) for header in layout.values()] == [425, 142, 140, 237, 215]
    sizes_of_files = [round((header.size - header.start) / 1e9, 2) for header in layout.values()]
    assert sizes_of_files == [4.93, 4.92, 4.98, 4.98, 2.35]
    assert wanted["vlm.model.visual.patch_embed.proj.weight"][2] == (1152, 3, 2, 16, 16)
    assert wanted["expert.layers.35.mlp.down_proj.weight"][2] == (2048, 8256)
    assert wanted["vlm.model.visual.deepstack_merger_list.2.norm.weight"][2] == (4608,)


def test_missing_unknown_and_misshapen_tensors_are_listed_together(broken):
    index = json.loads((broken / "model.safetensors.index.json").read_text())
    file = broken / index["weight_map"]["expert.norm.weight"]
    tensors = safetensors.numpy.load_file(file)
    tensors["expert.norm.weight"] = np.ones((7,), np.float32)
    tensors["stray"] = np.ones((1,), np.float32)
    lost = next(name for name in tensors if name.startswith("expert.layers.0"))
    del tensors[lost], index["weight_map"][lost]
    index["weight_map"]["stray"] = file.name
    safetensors.numpy.save_file(tensors, file)
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(broken, f"{lost}: missing", "stray: unknown", "expert.norm.weight: shape [7], expected [64]")


def test_a_torn_file_is_named(broken):
    file = sorted(broken.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    refused(broken, file.name, "torn or corrupt")


def test_a_corrupt_header_is_named(broken):
    file = sorted(broken.glob("*.safetensors"))[0]
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    refused(broken, file.name, "torn or corrupt")


def test_an_absent_shard_is_named(broken):
    file = sorted(broken.glob("*.safetensors"))[2]
    file.unlink()
    refused(broken, file.name, "absent")


def test_pickled_weights_are_refused_with_the_way_out(broken):
    for file in broken.glob("model*"):
        file.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"")
    refused(broken, "pytorch_model.bin", "safetensors")


@pytest.mark.parametrize(("change", "part"), [
    (lambda c: c.update(model_type="llama"), "'llama', expected one of"),
    (lambda c: c.update(vocab_size=5), "vocab_size is 5"),
])  # fmt: skip
def test_a_wrong_config_is_refused_by_its_key(broken, change, part):
    config = json.loads((broken / "config.json").read_text())
    change(config)
    (broken / "config.json").write_text(json.dumps(config))
    refused(broken, part)


def test_a_release_names_a_repository_and_keeps_its_vlm_files_in_the_folder(broken):
    config = json.loads((broken / "config.json").read_text())
    config["vlm_name_or_path"] = "nvidia/Cosmos-Reason2-8B"
    (broken / "config.json").write_text(json.dumps(config))
    ar1_jax.load(broken)
    (broken / "vlm").rename(broken.parent / "elsewhere")
    refused(broken, "nvidia/Cosmos-Reason2-8B", "tokenizer=")
    ar1_jax.load(broken, tokenizer=broken.parent / "elsewhere")


def test_a_missing_tokenizer_says_where_one_may_come_from(broken):
    (broken / "vlm" / "tokenizer.json").unlink()
    refused(broken, "tokenizer.json", "tokenizer=")
    ar1_jax.load(broken, tokenizer=folders.folder("v15_small") / "vlm")


def test_a_full_or_unwritable_target_is_left_alone(tmp_path):
    policy = folders.policy("r1_small")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(errors.CheckpointError, match="not empty"):
        policy.save(tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CheckpointError, match="cannot be written"):
        policy.save(tmp_path / "file" / "inside")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_alpamayo_1_without_its_buffers_takes_what_the_config_says(tmp_path):
    """The seven constants are optional (inference.md section 1.3); stored ones, here rounded to bfloat16, win."""
    source = pathlib.Path(shutil.copytree(folders.folder("r1_small"), tmp_path / "checkpoint"))
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    stored = {name: x for name, x in tensors.items() if huggingface.names.BUFFERS.fullmatch(name)}
    assert len(stored) == 7
    kept = {name: x for name, x in tensors.items() if name not in stored}
    safetensors.numpy.save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    with_them, without = folders.policy("r1_small").config, ar1_jax.load(source).config
    space = json.loads((source / "config.json").read_text())["action_space_cfg"]
    for key in ("accel_mean", "accel_std", "curvature_mean", "curvature_std"):
        assert getattr(without.unicycle, key) == space[key], key
        assert getattr(with_them.unicycle, key) == float(stored[f"action_space.{key}"]), key
    assert without.model.expert.frequencies is None and len(with_them.model.expert.frequencies) == 10


def test_constants_are_exact_in_float32_and_rounded_as_the_released_code_rounds_them():
    """inference.md section 1.6 names the rounded values of Alpamayo 1.5, which stores none."""
    source = folders.folder("v15_small")
    exact = ar1_jax.load(source).config
    rounded = ar1_jax.load(source, constants="bfloat16").config
    assert ar1_jax.load(source, dtype="bfloat16").config == rounded
    assert ar1_jax.load(source, dtype="bfloat16", constants="float32").config == exact
    space = rounded.unicycle
    found = space.accel_mean, space.accel_std, space.curvature_mean, space.curvature_std
    assert found == (0.029052734375, 0.6796875, 0.0002689361572265625, 0.026123046875)
    assert rounded.model.expert.frequencies == (
        1.0, 1.671875, 2.78125, 4.65625, 7.75, 12.9375, 21.5, 36.0, 60.0, 100.0
    )  # fmt: skip
    assert exact.unicycle.accel_std == 0.6810426736454882
    stored = ar1_jax.load(folders.folder("r1_small"), constants="float32").config
    assert stored.model.expert.frequencies is None
    with pytest.raises(errors.ConfigError, match="constants"):
        ar1_jax.load(source, constants="float16")
