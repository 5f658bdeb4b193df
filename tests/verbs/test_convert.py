"""What `convert` refuses: one message with everything that is amiss, exit code 2, nothing written, nothing changed.

The reference: folders broken by hand, and the messages a user needs."""

import errno
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from ar1_jax import main
from ar1_jax.checkpoints import folders as new_folders
from ar1_jax.checkpoints import tensor_files
from tests.policy import folders

INDEX = "model.safetensors.index.json"


@pytest.fixture
def broken(tmp_path):
    """A copy of the three-shard golden to break."""
    return pathlib.Path(shutil.copytree(folders.folder("v15_small"), tmp_path / "checkpoint"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(source, target, *words):
    return main.main(["--config=convert", f"--config.source={source}", f"--config.target={target}", *words])


def refused(capsys, source, target, parts, *words):
    """The verb says all parts in one message and leaves the disk as it was."""
    before = contents(pathlib.Path(source)) if pathlib.Path(source).is_dir() else {}
    there = sorted(p.name for p in target.parent.iterdir()) if target.parent.is_dir() else []
    assert run(source, target, *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    for part in parts:
        assert part in said, said
    assert not before or contents(pathlib.Path(source)) == before
    assert not there or sorted(p.name for p in target.parent.iterdir()) == there
    return said


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_everything_that_is_wrong_is_said_at_once(broken, tmp_path, capsys):
    index = json.loads((broken / INDEX).read_text())
    last = sorted(set(index["weight_map"].values()))[-1]
    tensors = safetensors.numpy.load_file(broken / last)
    tensors["expert.norm.weight"] = np.ones((7,), np.float32)
    tensors["action_out_proj.bias"] = np.ones((2,), np.int32)
    tensors["stray"] = np.ones((1,), np.float32)
    lost = next(name for name in tensors if name.startswith("action_in_proj.encoder"))
    del tensors[lost], index["weight_map"][lost]
    index["weight_map"]["stray"] = last
    safetensors.numpy.save_file(tensors, broken / last)
    first = sorted(set(index["weight_map"].values()))[0]
    (broken / first).write_bytes((broken / first).read_bytes()[:-9])
    (broken / INDEX).write_text(json.dumps(index))
    (broken / "vlm" / "tokenizer.json").unlink()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    said = refused(capsys, broken, tmp_path / "full", [
        f"{lost}: missing", "stray: unknown tensor", "expert.norm.weight: shape [7], expected [64]",
        "action_out_proj.bias: dtype I32, expected one of BF16, F16, F32", f"{first}: torn or corrupt",
        "tokenizer.json: missing", "tokenizer=", "full: exists and is not empty",
    ])  # fmt: skip
    assert "vlm.model.visual" not in said, "what lies in the torn file is not called missing"
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def cut_header(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    return [file.name, "torn or corrupt"]


def absent_shard(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.unlink()
    return [f"{file.name}: named by {INDEX} but absent"]


def outside_shard(folder):
    text = (folder / INDEX).read_text()
    name = sorted(folder.glob("*.safetensors"))[1].name
    (folder / INDEX).write_text(text.replace(name, f"../{name}"))
    return [f"../{name}", "no name of a file of this folder"]


def wrong_index(folder):
    (folder / INDEX).write_text('{"metadata": {}}')
    return [INDEX, "weight_map"]


def torn_index(folder):
    (folder / INDEX).write_text((folder / INDEX).read_text()[:-20])
    return [INDEX, "not a JSON file"]


def moved_tensor(folder):
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["expert.norm.weight"] = files[0]
    (folder / INDEX).write_text(json.dumps(index))
    return [
        f"expert.norm.weight: {INDEX} says {files[0]}, found in",
        "which model.safetensors.index.json does not say",
    ]


def pickled(folder):
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x04")
    (folder / "model_rank_0.pth").write_bytes(b"\x80\x04")
    return ["model_rank_0.pth, pytorch_model-00001-of-00002.bin", "can run code", "save_pretrained"]


def no_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()
    return ["neither model.safetensors nor model.safetensors.index.json"]


def unknown_type(folder):
    edit(folder, lambda c: c.update(model_type="llama"))
    return ["model_type is 'llama', expected one of alpamayo_r1, alpamayo1_5"]


def no_config(folder):
    (folder / "config.json").unlink()
    return ["config.json: missing"]


def no_width(folder):
    vlm = json.loads((folder / "vlm/config.json").read_text())
    del vlm["text_config"]["hidden_size"], vlm["text_config"]["head_dim"]
    (folder / "vlm/config.json").write_text(json.dumps(vlm))
    return ["key hidden_size is missing", "key head_dim is missing"]


def no_vlm(folder):
    shutil.rmtree(folder / "vlm")
    return ["vlm_name_or_path", "tokenizer="]


DAMAGE = [cut_header, absent_shard, outside_shard, wrong_index, torn_index, moved_tensor, pickled, no_weights,
          unknown_type, no_config, no_width, no_vlm]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_source_is_refused(broken, tmp_path, capsys, damage):
    refused(capsys, broken, tmp_path / "new", damage(broken))


def test_layers_of_two_dtypes_cannot_be_stacked_but_converted(broken, tmp_path, capsys):
    file = sorted(broken.glob("*.safetensors"))[-1]
    tensors = safetensors.numpy.load_file(file)
    name = next(n for n in tensors if n.startswith("expert.layers.") and n.endswith("down_proj.weight"))
    tensors[name] = tensors[name].astype(np.float32)
    safetensors.numpy.save_file(tensors, file)
    refused(capsys, broken, tmp_path / "new", [name, "dtype", "BF16"])
    assert run(broken, tmp_path / "new", "--config.dtype=float32") == 0


def test_a_bad_target_is_refused(broken, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    refused(capsys, broken, tmp_path / "file" / "new", ["cannot be written", "no folder"])
    refused(capsys, broken, tmp_path / "file", ["exists and is not empty"])
    refused(capsys, broken, broken / "inside", ["lies in the source"])
    monkeypatch.setattr(new_folders.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000))
    refused(capsys, broken, tmp_path / "new", ["the disk is too full", "1,000 are free"])


@pytest.mark.parametrize("form", ["orbax", "huggingface"])
def test_a_disk_that_fills_up_leaves_nothing(broken, tmp_path, capsys, monkeypatch, form):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "write", full)
    monkeypatch.setattr("ar1_jax.checkpoints.orbax_leaves.write", full)
    refused(
        capsys, broken, tmp_path / "new", ["new: cannot be written: No space left"], f"--config.format={form}"
    )


LIMITED = """
import resource, sys
from ar1_jax import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_real_limit_of_the_system_leaves_nothing(tmp_path):
    """Files may not grow over 100 kB here, as on a disk that is full: the weights are larger."""
    words = ["--config=convert:huggingface", f"--config.source={folders.folder('v15_small')}"]
    words += [f"--config.target={tmp_path / 'new'}"]
    done = subprocess.run([sys.executable, "-c", LIMITED, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "parts"), [
    (["--config.layout=alpamayo2"], ["layout: unknown 'alpamayo2'", "alpamayo1_5"]),
    (["--config.format=pickle"], ["config.format: unknown 'pickle'"]),
    (["--config.dtype=int8"], ["config.dtype: unknown 'int8'"]),
])  # fmt: skip
def test_wrong_settings_are_refused(tmp_path, capsys, words, parts):
    refused(capsys, folders.folder("v15_small"), tmp_path / "new", parts, *words)


def test_a_torn_orbax_folder_is_refused(tmp_path, capsys):
    ours = tmp_path / "ours"
    assert run(folders.folder("v15_small"), ours) == 0
    capsys.readouterr()
    file = max((f for f in (ours / "params").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-7])
    refused(capsys, ours, tmp_path / "new", [str(file.name), "torn"], "--config.format=huggingface")


def test_no_source_is_refused(tmp_path, capsys):
    refused(capsys, tmp_path / "nothing", tmp_path / "new", ["nothing: no such folder"])
    assert main.main(["--config=convert"]) == 2
    said = capsys.readouterr().err
    assert "config.source is empty" in said and "config.target is empty" in said
