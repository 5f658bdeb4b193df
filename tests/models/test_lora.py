"""Adapters against the formula written in NumPy: in the layer, in the scan, merged; what targets may name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ar1_jax.core import errors, sharding_tables, trees
from ar1_jax.models import alpamayo, layers, lora
from tests.train import tiny

PARAMS, BATCH = tiny.params(), tiny.batch()
TEXT = "vlm/model/language_model/layers"
TARGETS = (
    f"{TEXT}/.*_proj",
    "expert/layers/mlp/(up|down)_proj",
    "vlm/model/visual/(blocks|merger|deepstack.*)/.*(fc1|proj)",
)
SCALE = 2.0


def adapters(zero=False, rank=2):
    """Fresh ones, or with a B that is not zero."""
    fresh = lora.init(PARAMS, TARGETS, rank, jax.random.key(3))
    fill = lambda path, x: (
        jax.random.normal(jax.random.key(len(path)), x.shape) * 0.1 if path.endswith("_b") else x
    )
    return fresh if zero else trees.map_with_path(fill, fresh)


@jax.jit
def outputs(params):
    """Log-probabilities of a batch and the expert's field behind it."""
    prefix = alpamayo.prefill(tiny.MODEL, params, tiny.encode(BATCH))
    hidden, suffix = alpamayo.completion(tiny.MODEL, params, prefix, BATCH["ids"][:, None])
    log_prob, _ = alpamayo.token_log_prob(params, hidden, BATCH["ids"][:, None])
    length = jnp.full((tiny.B, 1), 4)
    x = jnp.asarray(BATCH["actions"])[:, None]
    return log_prob, alpamayo.flow_velocity(
        tiny.MODEL, params, prefix, suffix, length, x, jnp.full((tiny.B, 1), 0.3)
    )


def test_a_linear_adds_the_scaled_product():
    rng = np.random.default_rng(0)
    w, a, b, x = (rng.normal(size=s).astype("float32") for s in ((6, 5), (6, 2), (2, 5), (3, 6)))
    tree = lora.attach({"kernel": w}, {"lora_a": a, "lora_b": b}, 1.5)
    got = layers.Linear(5).apply({"params": tree}, x)
    np.testing.assert_allclose(got, x @ w + 1.5 * (x @ a) @ b, atol=1e-5)


def test_in_half_precision_nothing_is_rounded_before_the_sum():
    """x W = -256.5, x A = 257 and B = 1 + 2^-10 need more bits than bfloat16 has; their 0.751 is 0.75 there."""
    half = lambda rows: jnp.array(rows, jnp.bfloat16)
    kernel, x = half([[-256.0], [-0.5]]), half([[1.0, 1.0]])
    tree = {"kernel": kernel, "lora_a": jnp.array([[256.0], [1.0]]), "lora_b": jnp.array([[1 + 2.0**-10]])}
    got = layers.Linear(1).apply({"params": tree}, x)
    assert got.dtype == jnp.bfloat16 and float(got[0, 0]) == 0.75


def test_fresh_adapters_change_no_bit_and_others_equal_their_merge():
    base = outputs(PARAMS)
    for got, want in zip(outputs(lora.attach(PARAMS, adapters(zero=True), SCALE)), base):
        np.testing.assert_array_equal(got, want)
    merged = lora.merge(PARAMS, adapters(), SCALE)
    assert trees.flatten(merged).keys() == trees.flatten(PARAMS).keys()
    for got, want, old in zip(outputs(lora.attach(PARAMS, adapters(), SCALE)), outputs(merged), base):
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert float(jnp.abs(want - old).max()) > 1e-2  # and they do something


def test_merged_kernels_are_the_formula_layer_by_layer():
    own, before = trees.flatten(adapters()), trees.flatten(PARAMS)
    for path, got in trees.flatten(lora.merge(PARAMS, adapters(), SCALE)).items():
        name = path.removesuffix("kernel")
        want = np.array(before[path])
        if f"{name}lora_a" in own:
            a, b = np.asarray(own[f"{name}lora_a"]), np.asarray(own[f"{name}lora_b"])
            if want.ndim == 2:
                want = want + SCALE * a @ b
            else:
                want = np.stack([w + SCALE * x @ y for w, x, y in zip(want, a, b, strict=True)])
        np.testing.assert_allclose(got, want, atol=1e-6, err_msg=path)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    kernel = trees.flatten(lora.merge(half, adapters(), SCALE))[f"{TEXT}/mlp/up_proj/kernel"]
    a, b = own[f"{TEXT}/mlp/up_proj/lora_a"], own[f"{TEXT}/mlp/up_proj/lora_b"]
    wide = np.float32(trees.flatten(half)[f"{TEXT}/mlp/up_proj/kernel"]) + SCALE * np.asarray(a) @ np.asarray(
        b
    )
    np.testing.assert_array_equal(kernel, wide.astype(jnp.bfloat16))


def test_an_adapters_draw_depends_on_its_path_alone():
    few = trees.flatten(lora.init(PARAMS, TARGETS[1:], 2, jax.random.key(3)))
    many = trees.flatten(adapters(zero=True))
    assert len(few) == 12 and few.keys() < many.keys()
    for path, leaf in few.items():
        np.testing.assert_array_equal(leaf, many[path])
        assert leaf.dtype == jnp.float32 and (np.any(leaf) == path.endswith("lora_a"))
    a = np.asarray(few["expert/layers/mlp/up_proj/lora_a"])
    assert a.shape == (2, 12, 2) and not (a[0] == a[1]).any()


def test_shapes_are_enough_to_begin_with():
    abstract = jax.eval_shape(lambda: lora.init(jax.eval_shape(tiny.params), TARGETS, 2, jax.random.key(3)))
    assert trees.differences(trees.flatten(abstract), trees.flatten(adapters())) == []


def test_targets_that_name_no_linear_are_refused_together():
    targets = ("expert/layers/mlp/upp_proj", "vlm/lm_head", f"{TEXT}/.*norm", f"{TEXT}/mlp/up_proj")
    with pytest.raises(errors.ConfigError) as caught:
        lora.init(PARAMS, targets, 2, jax.random.key(0))
    for words in (
        "upp_proj': matches no module",
        "vlm/lm_head is no Linear",
        "layers/input_layernorm is no Linear",
    ):
        assert words in str(caught.value)
    with pytest.raises(errors.ConfigError, match="rank 40 is above 16"):
        lora.init(PARAMS, targets[-1:], 40, jax.random.key(0))
    with pytest.raises(errors.ConfigError, match="fits .*, there is nothing"):
        lora.merge({"vlm": PARAMS["vlm"]}, adapters(), SCALE)
    with pytest.raises(errors.ConfigError) as caught:
        lora.Recipe(2, 0.0, ())
    assert "alpha" in str(caught.value) and "targets" in str(caught.value)


def test_adapters_are_cut_as_their_kernels():
    got = trees.flatten(
        lora.specs(adapters(), sharding_tables.PARAMETERS), is_leaf=lambda x: isinstance(x, P)
    )
    assert got[f"{TEXT}/mlp/up_proj/lora_a"] == P(None, "fsdp", None)
    assert got[f"{TEXT}/mlp/up_proj/lora_b"] == P(None, None, "tensor")
    assert got[f"{TEXT}/mlp/down_proj/lora_a"] == P(None, "tensor", None)
    assert got["vlm/model/visual/merger/linear_fc1/lora_a"] == P("fsdp", None)
    assert got["vlm/model/visual/merger/linear_fc1/lora_b"] == P(None, "tensor")
