"""Trees by path. The reference: small trees written out by hand."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ar1_jax.core import trees

TREE = {
    "vlm": {"layers": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3, jnp.bfloat16)}},
    "head": jnp.zeros(4),
}
State = collections.namedtuple("State", "count mu")


def test_paths_of_dicts_sequences_and_fields():
    tree = (State(jnp.zeros(()), {"a": jnp.ones(2)}), [jnp.ones(1)])
    assert list(trees.flatten(tree)) == ["0/count", "0/mu/a", "1/0"]


def test_nest_and_unflatten_are_inverse_to_flatten():
    flat = trees.flatten(TREE)
    assert jax.tree.structure(trees.nest(flat)) == jax.tree.structure(TREE)
    state = State(1, {"a": 2, "b": 3})
    assert trees.unflatten(state, {"mu/b": 30, "count": 10, "mu/a": 20}) == State(10, {"a": 20, "b": 30})
    with pytest.raises(KeyError, match="mu/b"):
        trees.unflatten(state, {"mu/a": 20, "count": 10})


def test_a_pattern_must_match_the_whole_path_and_the_first_one_wins():
    mask = trees.mask(TREE, ["vlm/.*/bias", "hea"])
    assert trees.flatten(mask) == {"head": False, "vlm/layers/bias": True, "vlm/layers/kernel": False}
    table = [("vlm/.*", 1), (".*/bias", 2), ("head", 3)]
    assert [trees.first_match(p, table) for p in ("vlm/layers/bias", "x/bias", "head", "none")] == [
        1,
        2,
        3,
        None,
    ]


def test_split_and_merge_are_inverse_and_refuse_doubles():
    chosen, rest = trees.split(TREE, [".*kernel"])
    assert list(trees.flatten(chosen)) == ["vlm/layers/kernel"] and len(trees.flatten(rest)) == 2
    assert set(trees.flatten(trees.merge(chosen, rest))) == set(trees.flatten(TREE))
    with pytest.raises(ValueError, match="vlm/layers/kernel"):
        trees.merge(chosen, TREE)


def test_counts_of_arrays_and_shapes():
    shapes = jax.eval_shape(lambda: TREE)
    assert trees.count(TREE) == trees.count(shapes) == 6 + 3 + 4
    assert trees.num_bytes(TREE) == trees.num_bytes(shapes) == 4 * 6 + 2 * 3 + 4 * 4


def test_differences_name_every_path():
    got = {"a": np.zeros(2), "b": np.zeros(2, np.float32), "c": np.zeros(1)}
    expected = {"a": np.zeros(3), "b": np.zeros(2), "d": np.zeros(1), "c": np.zeros(1)}
    assert trees.differences(got, expected) == [
        "d: missing, expected float64[1]",
        "a: got float64[2], expected float64[3]",
        "b: got float32[2], expected float64[2]",
    ]
    assert trees.differences({"z": np.zeros(1)}, {}) == ["z: unknown, got float64[1]"]
