"""Checkpoints: bit-exact round trips and resumes, and every way in which a file can be torn.

The reference is an uninterrupted run in the same process, compared by bytes."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors, sharding, trees

RNG = np.random.default_rng(0)
PARAMS = {
    "vlm": {
        "layers": {"kernel": jnp.asarray(RNG.normal(size=(3, 8, 4)), jnp.float32)},
        "half": jnp.asarray(RNG.normal(size=(5,)), jnp.bfloat16),
    },
    "scale": jnp.float32(0.1),
    "empty": jnp.zeros((0, 4)),
}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), (_, y) in zip(trees.flatten(a).items(), trees.flatten(b).items()):
        assert x.dtype == y.dtype and x.shape == y.shape, path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


@jax.jit
def step(params, state, key):
    """A made-up loss that touches every leaf and draws noise."""

    def loss(p):
        kernel = p["vlm"]["layers"]["kernel"]
        noise = jax.random.normal(key, kernel.shape)
        half = p["vlm"]["half"].astype(jnp.float32)
        return jnp.sum((kernel - noise) ** 2) * p["scale"] ** 2 + jnp.sum(half**2)

    updates, state = OPTIMIZER.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def train(params, state, key, first, last):
    for i in range(first, last):
        params, state = step(params, state, jax.random.fold_in(key, i))
    return params, state


def test_resume_continues_bit_for_bit(tmp_path):
    key = jax.random.key(7)
    whole = train(PARAMS, OPTIMIZER.init(PARAMS), key, 0, 6)
    params, state = train(PARAMS, OPTIMIZER.init(PARAMS), key, 0, 3)
    loop = {
        "step": 3,
        "key": key,
        "position": np.int64(12),
        "reader": b'{"next": 3}',
        "weights": np.float32([0.1]),
    }
    config = ml_collections.ConfigDict({"steps": 6, "model": {"width": 8}})
    runs.save(tmp_path, 3, {"params": params, "optimizer": state, "loop": loop, "config": config})

    like = {"params": PARAMS, "optimizer": jax.eval_shape(OPTIMIZER.init, PARAMS)}
    found = runs.restore(tmp_path, like)
    same_bits(found.params, params)
    same_bits(found.optimizer, state)
    assert found.step == 3 and found.loop["position"] == 12 and found.loop["reader"] == b'{"next": 3}'
    assert found.loop["weights"].dtype == np.float32 and found.loop["weights"][0] == np.float32(0.1)
    assert found.config == {"steps": 6, "model": {"width": 8}}
    assert found.loop["key"] == key
    resumed = train(found.params, found.optimizer, found.loop["key"], found.loop["step"], 6)
    same_bits(resumed, whole)


def test_parameters_load_alone_from_run_folder_and_from_step(tmp_path):
    folder = runs.save(tmp_path / "checkpoints", 1, {"params": PARAMS, "optimizer": {"m": np.ones(3)}})
    for path in (tmp_path, tmp_path / "checkpoints", folder):
        same_bits(runs.load_params(path, PARAMS), PARAMS)
    loose = runs.load_params(tmp_path)
    assert "empty" not in loose and isinstance(loose["scale"], np.ndarray)
    np.testing.assert_array_equal(loose["vlm"]["layers"]["kernel"], PARAMS["vlm"]["layers"]["kernel"])


def test_newest_steps_are_kept_and_an_older_one_can_be_asked_for(tmp_path):
    for number in (5, 10, 15, 20):
        runs.save(tmp_path, number, {"params": {"x": np.full(2, number)}}, keep=2)
    assert runs.steps(tmp_path) == [15, 20] and runs.latest(tmp_path) == 20
    like = {"params": {"x": np.zeros(2, np.int64)}}
    assert runs.restore(tmp_path, like).params["x"].tolist() == [20, 20]
    assert runs.restore(tmp_path, like, step=15).params["x"].tolist() == [15, 15]
    runs.save(tmp_path, 20, {"params": {"x": np.full(2, 21)}})
    assert runs.restore(tmp_path, like).params["x"].tolist() == [21, 21]


def test_saved_on_one_layout_restores_to_another(tmp_path):
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {"kernel": jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32), "bias": jnp.arange(6.0)}
    table = [("kernel", P("fsdp")), ("bias", P())]
    placed = sharding.shard_tree(tree, tree, table, mesh)
    runs.save(tmp_path, 1, {"params": placed})
    other = sharding.make_mesh(data=1, fsdp=2, tensor=4)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(other, P("fsdp"))), tree
    )
    found = runs.restore(tmp_path, {"params": like}).params
    same_bits(found, tree)
    assert all(x.sharding == NamedSharding(other, P("fsdp")) for x in jax.tree.leaves(found))
    same_bits(runs.restore(tmp_path, {"params": tree}).params, tree)


def test_all_differences_of_a_tree_are_named(tmp_path):
    runs.save(tmp_path, 1, {"params": {"a": np.ones((2, 3), np.float32), "b": np.ones(2), "c": np.ones(4)}})
    like = {"params": {"a": np.ones((2, 4), np.float32), "b": np.ones(2, np.float32), "d": np.ones(1)}}
    with pytest.raises(errors.CheckpointError) as caught:
        runs.restore(tmp_path, like)
    text = str(caught.value)
    for line in (
        "a: got float32[2, 3], expected float32[2, 4]",
        "b: got float64[2], expected float32[2]",
        "c: unknown, got float64[4]",
        "d: missing, expected float64[1]",
    ):
        assert line in text


def damage_cut(folder):
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-7])
    return file, "torn"


def damage_flip(folder):
    file = max((f for f in (folder / "params").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return file, "corrupt"


def damage_remove(folder):
    (folder / "loop.json").unlink()
    return folder / "loop.json", "missing"


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_remove])
def test_a_damaged_file_is_named_and_falls_back_only_when_asked(tmp_path, damage):
    for number in (1, 2):
        runs.save(
            tmp_path, number, {"params": {"x": RNG.normal(size=(50, 50)) * number}, "loop": {"step": number}}
        )
    file, word = damage(tmp_path / "00000002")
    like = {"params": {"x": np.zeros((50, 50))}}
    with pytest.raises(errors.CheckpointError) as caught:
        runs.restore(tmp_path, like)
    assert str(file) in str(caught.value) and word in str(caught.value)
    found = runs.restore(tmp_path, like, fall_back=True)
    assert found.step == 1 and found.loop == {"step": 1}


def test_a_torn_manifest_does_not_pass_for_a_checkpoint(tmp_path):
    folder = runs.save(tmp_path, 1, {"params": {"x": np.ones(2)}})
    (folder / "manifest.json").write_text('{"files": {"par')
    with pytest.raises(errors.CheckpointError, match="manifest"):
        runs.restore(tmp_path, {"params": {"x": np.ones(2)}})


CHILD = """
import sys, time
import numpy as np
from ar1_jax.checkpoints import runs
runs.save(sys.argv[1], 1, {"params": {"x": np.ones((100, 100))}, "loop": {"step": 1}})
def hang(folder):
    print("half written", flush=True)
    time.sleep(60)
runs.write_manifest = hang
runs.save(sys.argv[1], 2, {"params": {"x": 2 * np.ones((100, 100))}, "loop": {"step": 2}})
"""


def test_a_writer_killed_in_the_middle_leaves_the_step_before(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout.readline() == b"half written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / ".00000002.tmp" / "params").is_dir()
    found = runs.restore(tmp_path, {"params": {"x": np.zeros((100, 100))}})
    assert found.step == 1 and found.loop == {"step": 1} and found.params["x"].sum() == 10_000
    runs.save(tmp_path, 3, {"params": {"x": np.ones((100, 100))}})
    assert runs.steps(tmp_path) == [1, 3] and not list(tmp_path.glob(".*"))


def test_errors_say_what_was_expected(tmp_path):
    with pytest.raises(errors.CheckpointError, match="unknown items .'weights'.; known: params"):
        runs.save(tmp_path, 1, {"weights": {}})
    with pytest.raises(
        errors.CheckpointError, match="no complete checkpoint; expected a folder such as 00000100"
    ):
        runs.restore(tmp_path, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CheckpointError, match="cannot be written"):
        runs.save(tmp_path / "file", 1, {"params": {"x": np.ones(1)}})
    runs.save(tmp_path, 1, {"loop": {"step": 1}})
    with pytest.raises(errors.CheckpointError, match="holds no params"):
        runs.load_params(tmp_path)
    assert json.loads((tmp_path / "00000001" / "manifest.json").read_text())["version"] == 1
