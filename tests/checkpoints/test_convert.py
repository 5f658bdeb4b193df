"""Conversions both ways, byte for byte. The reference: the files themselves, read by the safetensors library."""

import json
import pathlib
import weakref

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
import tokenizers
from jax.sharding import PartitionSpec as P

import ar1_jax
from ar1_jax.checkpoints import converted as ours_module
from ar1_jax.checkpoints import huggingface, runs, tensor_files
from ar1_jax.core import config, sharding
from ar1_jax.policy import loading
from ar1_jax.verbs import convert
from tests.policy import folders

PREFIX = "vlm."


def converted(source, target, **keys):
    """Runs the verb; the target's path."""
    form = keys.pop("format", "huggingface")
    settings = config.load(
        f"configs/convert.py:{form}", {"source": str(source), "target": str(target), **keys}
    )
    assert convert.run(settings) == 0
    return pathlib.Path(target)


def contents(folder):
    """Relative name -> bytes of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors(folder):
    """Name -> (dtype, shape, bytes) of a folder's tensors."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out |= {n: (x.dtype, x.shape, x.tobytes()) for n, x in safetensors.numpy.load_file(file).items()}
    return out


@pytest.mark.parametrize("name", ["r1_small", "v15_small"])
def test_to_orbax_and_back_is_the_same_folder_byte_for_byte(tmp_path, name, capsys):
    source = folders.folder(name)
    before = contents(source)
    ours = converted(source, tmp_path / "ours", format="orbax")
    again = converted(ours, tmp_path / "again")
    assert contents(again) == before and contents(source) == before
    assert not list(ours.glob("model*")) and (ours / "params").is_dir()
    said = capsys.readouterr().out
    assert "the source's layout" in said and "Apache-2.0" in said and "non-commercial" in said


def test_our_form_loads_as_the_folder_it_was_made_from(tmp_path):
    ours = converted(folders.folder("r1_small"), tmp_path / "ours", format="orbax")
    policy, again = folders.policy("r1_small"), ar1_jax.load(ours, dtype="float32")
    assert again.config == policy.config
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    half = ar1_jax.load(ours, dtype="bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}


def test_cut_over_a_mesh_it_is_the_same_folder_again(tmp_path):
    source = folders.folder("r1_small")
    ours = converted(source, tmp_path / "ours", format="orbax", **{"mesh.fsdp": 2, "mesh.tensor": 4})
    assert contents(converted(ours, tmp_path / "again")) == contents(source)
    mesh = sharding.make_mesh(fsdp=8)
    policy = ar1_jax.load(ours, dtype="float32", mesh=mesh)
    kernel = policy.params["vlm"]["model"]["language_model"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 64 // 8, 160)
    jax.tree.map(np.testing.assert_array_equal, policy.params, folders.policy("r1_small").params)


@pytest.mark.parametrize("shape", [None, (1, 2, 4)])
def test_orbax_alone_restores_our_form(tmp_path, shape):
    cut = {} if shape is None else {f"mesh.{axis}": n for axis, n in zip(sharding.AXES, shape)}
    ours = converted(folders.folder("r1_small"), tmp_path / "ours", format="orbax", **cut)
    want = folders.policy("r1_small").params
    with ocp.StandardCheckpointer() as reader:
        if shape is None:
            jax.tree.map(np.testing.assert_array_equal, reader.restore(ours / "params"), want)
        placed = loading.shardings(want, sharding.make_mesh(1, 4, 2))
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), want, placed)
        found = reader.restore(ours / "params", like)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    assert jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, found, placed)) == [True] * len(
        jax.tree.leaves(want)
    )


def test_one_parameter_after_the_other_is_written(tmp_path, monkeypatch):
    """To orbax a leaf is on disk before the next is read; back, at most the last one is still held by then."""
    source, target, before = folders.folder("r1_small"), tmp_path / "ours", []
    count = len(jax.tree.leaves(folders.policy("r1_small").params))
    read, found = huggingface.Leaves.read, []

    def watched(self, path, *arguments):
        staging = next(tmp_path.glob(".ours.writing-*"))
        before.append(len(list(staging.glob("params*/*/.zarray"))))
        return read(self, path, *arguments)

    monkeypatch.setattr(huggingface.Leaves, "read", watched)
    converted(source, target, format="orbax")
    assert before == list(range(count))
    again = ours_module.Leaves.read

    def held(self, path, *arguments):
        assert sum(x() is not None for x in found) <= 1, path
        leaf = again(self, path, *arguments)
        found.append(weakref.ref(leaf))
        return leaf

    monkeypatch.setattr(ours_module.Leaves, "read", held)
    converted(target, tmp_path / "again")
    assert len(found) == count


def test_only_the_rows_of_a_shard_are_read(monkeypatch):
    """Tensor-cut kernels need half the rows of their tensors; the bytes that are asked for are counted."""
    source, asked = huggingface.weights(folders.folder("r1_small")), {}
    rows = tensor_files.Reader.rows

    def counting(self, name, first=0, last=None):
        out = rows(self, name, first, last)
        asked.setdefault(name, []).append((first, first + len(out)))
        return out

    monkeypatch.setattr(tensor_files.Reader, "rows", counting)
    name = "vlm.model.language_model.layers.2.mlp.up_proj.weight"
    wanted = loading.wanted(folders.policy("r1_small").config.model)
    row = wanted[name][0]
    tree = {"kernel": jax.ShapeDtypeStruct((4, 64, 160), np.float32)}
    one = {n: (r._replace(path="kernel"), i, s) for n, (r, i, s) in wanted.items() if r.path == row.path}
    half = jax.sharding.NamedSharding(
        sharding.make_mesh(tensor=2, devices=jax.devices()[:2]), P(None, None, "tensor")
    )
    kernel = huggingface.read(source, one, tree, None, {"kernel": half}, checked=True)["kernel"]
    assert asked[name] == [(0, 80), (80, 160)] and len(asked) == 4
    stored = safetensors.numpy.load_file(source.folder / "model.safetensors")[name]
    np.testing.assert_array_equal(kernel[2], stored.T)
    shard = next(s.data for s in kernel.addressable_shards if s.index[2].start == 80)
    np.testing.assert_array_equal(shard[2], stored[80:160].T)


def test_alpamayo_1_becomes_1_5_and_again_1(tmp_path):
    source = folders.folder("r1_small")
    newer = converted(source, tmp_path / "newer", layout="alpamayo1_5")
    raw = json.loads((newer / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("alpamayo1_5", ["Alpamayo1_5"])
    text = json.dumps(raw)
    assert (
        "alpamayo_r1." not in text and "alpamayo1_5.models.delta_tokenizer.DeltaTrajectoryTokenizer" in text
    )
    assert raw["action_out_proj_cfg"]["_target_"] == "torch.nn.Linear"
    assert tensors(newer) == tensors(source)
    assert contents(converted(newer, tmp_path / "again", layout="alpamayo_r1")) == contents(source)
    assert ar1_jax.load(newer).config.family == "alpamayo1_5"


def test_the_training_layout_holds_the_extended_processor_and_leads_back(tmp_path):
    source = folders.folder("v15_small")
    training = converted(source, tmp_path / "training", layout="training")
    raw = json.loads((training / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("alpamayo_reasoning_vla", ["ReasoningVLA"])
    assert "alpamayo1_5." not in json.dumps(raw)
    extended = tokenizers.Tokenizer.from_file(str(training / "tokenizer.json"))
    assert extended.token_to_id("<i0>") == raw["traj_token_start_idx"]
    assert extended.get_vocab_size() == raw["vocab_size"]
    assert (training / "preprocessor_config.json").read_bytes() == (
        source / "vlm/preprocessor_config.json"
    ).read_bytes()
    assert tensors(training) == tensors(source)
    assert contents(converted(training, tmp_path / "again", layout="alpamayo1_5")) == contents(source)
    other = converted(
        source, tmp_path / "other", layout="training", vlm_name_or_path="nvidia/Cosmos-Reason2-8B"
    )
    assert json.loads((other / "config.json").read_text())["vlm_name_or_path"] == "nvidia/Cosmos-Reason2-8B"


@pytest.mark.parametrize(("name", "family"), [("r1_small", "alpamayo_r1"), ("v15_small", "alpamayo1_5")])
def test_the_training_layout_loads_as_the_release_it_was_made_from(tmp_path, name, family):
    """Family (which words its prompts), codecs, stored statistics and parameters; saved again it is a release."""
    training = converted(folders.folder(name), tmp_path / "training", layout="training")
    policy, again = folders.policy(name), ar1_jax.load(training, dtype="float32")
    assert again.config == policy.config and again.config.family == family
    assert again.vocabulary.tokenizer.to_str() == policy.vocabulary.tokenizer.to_str()
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    again.save(tmp_path / "saved")
    raw, want = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "saved", folders.folder(name))
    )
    assert (raw["model_type"], raw["architectures"]) == (want["model_type"], want["architectures"])
    assert raw["action_in_proj_cfg"] == want["action_in_proj_cfg"]
    (training / "vlm").rename(tmp_path / "base")
    elsewhere = ar1_jax.load(training, dtype="float32", tokenizer=tmp_path / "base")
    assert elsewhere.config == policy.config


@pytest.mark.parametrize("through", ["huggingface", "orbax"])
def test_the_vision_language_part_alone_is_a_base_model(tmp_path, through):
    source = folders.folder("v15_small")
    begin = source if through == "huggingface" else converted(source, tmp_path / "ours", format="orbax")
    alone = converted(begin, tmp_path / "alone", layout="vlm")
    expected = {n.removeprefix(PREFIX): x for n, x in tensors(source).items() if n.startswith(PREFIX)}
    assert tensors(alone) == expected
    raw, whole = (json.loads((f / "config.json").read_text()) for f in (alone, source))
    assert (raw["model_type"], raw["architectures"]) == ("qwen3_vl", ["Qwen3VLForConditionalGeneration"])
    assert raw["text_config"]["vocab_size"] == whole["vocab_size"]
    ours = converted(alone, tmp_path / "base", format="orbax")
    assert contents(converted(ours, tmp_path / "again")) == contents(alone)


def test_a_new_layout_has_small_shards_and_the_index_of_the_releases(tmp_path):
    source = folders.folder("r1_small")
    target = converted(source, tmp_path / "half", dtype="bfloat16", shard_bytes=400_000)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    found, files = tensors(target), sorted(target.glob("*.safetensors"))
    count = sum(p.size for p in jax.tree.leaves(folders.policy("r1_small").params))
    assert index["metadata"]["total_parameters"] == count
    assert index["metadata"]["total_size"] == sum(len(x[2]) for x in found.values())
    assert list(index["weight_map"]) == sorted(found) and len(files) > 3
    assert [f.name for f in files] == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    for file in files:
        with safetensors.safe_open(file, framework="numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
            sizes = [opened.get_tensor(name).nbytes for name in opened.keys()]
        assert sum(sizes) <= 400_000 or len(sizes) == 1
    want = safetensors.numpy.load_file(source / "model.safetensors")
    for name, (dtype, _, data) in found.items():
        kind = "float32" if huggingface.names.BUFFERS.fullmatch(name) else "bfloat16"
        assert dtype.name == kind and data == want[name].astype(dtype).tobytes(), name
    assert set(found) == set(want), "the buffers of Alpamayo 1 are kept"


def test_a_run_becomes_a_policy_with_its_best_parameters(tmp_path):
    start = folders.policy("r1_small")
    best = jax.tree.map(lambda x: x + 1, start.params)
    run = tmp_path / "run"
    runs.save(run / "best", 3, {"params": best})
    runs.save(run / "checkpoints", 5, {"params": start.params, "optimizer": {"m": np.ones(3)}})
    (run / "config.json").write_text(json.dumps({"policy": str(folders.folder("r1_small")), "steps": 5}))
    policy = ar1_jax.load(converted(run, tmp_path / "policy"), dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, policy.params, best)
    assert policy.config == start.config
    source = folders.folder("r1_small")
    assert (tmp_path / "policy/config.json").read_bytes() == (source / "config.json").read_bytes()
    assert set(tensors(tmp_path / "policy")) == set(tensors(source))


def test_a_run_from_nothing_becomes_nano(tmp_path):
    start = loading.create("nano", jax.random.key(0))
    runs.save(tmp_path / "run/checkpoints", 1, {"params": start.params})
    (tmp_path / "run/config.json").write_text(json.dumps({"model": "nano"}))
    ours = converted(tmp_path / "run", tmp_path / "ours", format="orbax")
    policy = ar1_jax.load(ours, dtype="float32")
    assert policy.config == start.config
    jax.tree.map(np.testing.assert_array_equal, policy.params, start.params)
    half = converted(ours, tmp_path / "half", dtype="bfloat16")
    assert {str(x[0]) for x in tensors(half).values()} == {"bfloat16"}
