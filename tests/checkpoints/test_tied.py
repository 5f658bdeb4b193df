"""Checkpoints whose head is the embedding transposed and has no tensor, as small Qwen3-VL bases have it.

The reference: transposing by hand, and the folders byte for byte."""

import json
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from jax.sharding import PartitionSpec as P

import ar1_jax
from ar1_jax.checkpoints import runs
from ar1_jax.core import config, errors, sharding
from ar1_jax.verbs import convert
from tests.policy import folders

HEAD, EMBEDDING = "vlm.lm_head.weight", "vlm.model.language_model.embed_tokens.weight"


def converted(source, target, **keys):
    form = keys.pop("format", "huggingface")
    settings = config.load(
        f"configs/convert.py:{form}", {"source": str(source), "target": str(target), **keys}
    )
    assert convert.run(settings) == 0
    return target


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tie(file, kept=None, bare=False):
    """Takes the head out of a folder's config and weights; kept: a head to leave there; the embedding as stored."""
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    top = file.parent if bare else file.parent.parent
    head, embedding = (n.removeprefix("vlm.") if bare else n for n in (HEAD, EMBEDDING))
    tensors = {}
    for part in sorted(top.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(part)
        part.unlink()
    (top / "model.safetensors.index.json").unlink(missing_ok=True)
    del tensors[head]
    if kept is not None:
        tensors[head] = kept(tensors[embedding])
    safetensors.numpy.save_file(tensors, top / "model.safetensors", metadata={"format": "pt"})
    return tensors[embedding]


@pytest.fixture
def policy(tmp_path):
    """A copy of a golden to tie."""
    return pathlib.Path(shutil.copytree(folders.folder("r1_small"), tmp_path / "policy"))


def test_a_tied_base_goes_both_ways_without_a_head(tmp_path):
    base = converted(folders.folder("v15_small"), tmp_path / "base", layout="vlm")
    embedding = tie(base / "config.json", bare=True)
    ours = converted(base, tmp_path / "ours", format="orbax")
    assert contents(converted(ours, tmp_path / "again")) == contents(base)
    with ocp.StandardCheckpointer() as reader:
        saved = reader.restore(ours / "params")["vlm"]
    np.testing.assert_array_equal(saved["lm_head"]["kernel"], embedding.T)
    half = converted(base, tmp_path / "half", dtype="bfloat16")
    assert "lm_head.weight" not in safetensors.numpy.load_file(half / "model.safetensors")


def test_a_tied_policy_loads_and_its_part_alone_stays_tied(policy, tmp_path):
    embedding = tie(policy / "vlm/config.json")
    loaded = ar1_jax.load(policy, dtype="float32")
    head = loaded.params["vlm"]["lm_head"]["kernel"]
    np.testing.assert_array_equal(head, embedding.T)
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    cut = ar1_jax.load(policy, dtype="float32", mesh=mesh).params["vlm"]["lm_head"]["kernel"]
    assert cut.sharding.spec == P(("fsdp", "tensor"), None)
    np.testing.assert_array_equal(cut, head)
    alone = converted(policy, tmp_path / "alone", layout="vlm")
    assert json.loads((alone / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in safetensors.numpy.load_file(alone / "model.safetensors")


def test_what_was_trained_has_a_head_of_its_own(policy, tmp_path):
    tie(policy / "vlm/config.json")
    start = ar1_jax.load(policy, dtype="float32")
    moved = jax.tree.map(lambda x: x + 1, start.params["vlm"]["lm_head"])
    params = {**start.params, "vlm": {**start.params["vlm"], "lm_head": moved}}
    runs.save(tmp_path / "run/checkpoints", 1, {"params": params})
    (tmp_path / "run/config.json").write_text(json.dumps({"policy": str(policy)}))
    start.params = params
    start.save(tmp_path / "saved")
    for folder in (converted(tmp_path / "run", tmp_path / "exported"), tmp_path / "saved"):
        assert json.loads((folder / "vlm/config.json").read_text())["tie_word_embeddings"] is False
        again = ar1_jax.load(folder, dtype="float32")
        jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_a_head_that_is_there_must_be_the_embedding(policy, tmp_path):
    tie(policy / "vlm/config.json", kept=np.copy)
    ours = converted(policy, tmp_path / "ours", format="orbax")
    assert contents(converted(ours, tmp_path / "again")) == contents(policy)
    raw = safetensors.numpy.load_file(policy / "model.safetensors")
    raw[HEAD][-1, -1] += 1
    safetensors.numpy.save_file(raw, policy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(errors.CheckpointError, match="lm_head.weight: differs from .*tie_word_embeddings"):
        ar1_jax.load(policy)
    with pytest.raises(errors.CheckpointError, match="lm_head.weight: differs from"):
        converted(policy, tmp_path / "new")


def test_a_missing_head_is_an_error_unless_tied(policy):
    tie(policy / "vlm/config.json")
    file = policy / "vlm/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": False}))
    with pytest.raises(errors.CheckpointError, match="vlm.lm_head.weight: missing"):
        ar1_jax.load(policy)
