"""Eight-bit weights: what is rounded and by how much, in NumPy; what it does to plans; what is refused."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.core import errors, sharding, trees
from ar1_jax.data import examples
from ar1_jax.models import layers
from ar1_jax.policy import quantization
from tests.goldens import compare
from tests.policy import folders

POLICY = ar1_jax.load("nano")
QUANTIZED = ar1_jax.load("nano", quantization="int8")
RNG = np.random.default_rng(0)


def containers(params):
    return trees.flatten(params, is_leaf=quantization.is_quantized)


def test_a_product_with_eight_bit_weights_is_that_of_the_rounded_weights():
    """Scale = largest magnitude of an output channel / 127.5, nearest step; channels differ by a factor 1,000."""
    w = (RNG.normal(size=(3, 32, 8)) * np.logspace(-2, 1, 8)).astype(np.float32)
    x = RNG.normal(size=(5, 32)).astype(np.float32)
    tree = {"expert": {"layers": {"mlp": {"kernel": jnp.asarray(w)}}}}
    kernel = quantization.quantize(tree, "int8")["expert"]["layers"]["mlp"]["kernel"]
    scale = np.abs(w).max(axis=1, keepdims=True) / np.float32(127.5)
    rounded = np.asarray(kernel.qvalue, np.float32)
    assert kernel.qvalue.dtype == jnp.int8
    assert 0.4 < np.abs(rounded - w / scale).max() < 0.501, "the nearest of the channel's 255 steps"
    for layer in range(3):
        product = layers.product(x, jax.tree.map(lambda a, layer=layer: a[layer], kernel))
        np.testing.assert_allclose(product, x @ (rounded * scale)[layer], rtol=1e-4, atol=1e-5)
        assert np.abs(product - x @ w[layer]).max() > 1e-3  # the probe: rounding is seen


def test_kernels_of_the_layers_are_rounded_and_nothing_else():
    plain, rounded = trees.flatten(POLICY.params), containers(QUANTIZED.params)
    assert plain.keys() == rounded.keys()
    for path, x in rounded.items():
        inside = path.endswith("kernel") and any(
            part in path for part in ("layers/", "blocks/", "merger")
        )  # not: embeddings, head, patches, action projections
        assert quantization.is_quantized(x) == inside, path
        if not inside:
            np.testing.assert_array_equal(x, plain[path])
    assert trees.num_bytes(QUANTIZED.params) < 0.45 * trees.num_bytes(POLICY.params)


@pytest.mark.slow
def test_nano_plans_nearly_the_same():
    scene = examples.world(1, "pedestrian").scene
    noise = RNG.normal(size=(2, 16, 2)).astype(np.float32)
    plain, rounded = (p.plan(scene, samples=2, temperature=0, noise=noise) for p in (POLICY, QUANTIZED))
    assert plain.reasoning == rounded.reasoning
    gap = np.linalg.norm((plain.trajectory_xyz - rounded.trajectory_xyz)[..., :2], axis=-1)
    assert 1e-3 < gap.mean() < 0.3, "metres over 6.4 s; 0 would mean that nothing was rounded"


@pytest.mark.parametrize(
    ("name", "call"),
    [("v15_small", "route"), ("r1_small", "main")],
)
@pytest.mark.slow
def test_released_architectures_stay_near_the_released_code(name, call):
    """Against numbers of the released code in float32: trajectories; against our float32: log-probabilities of the ids.

    Bounds are twice what was measured; shown with -s."""
    spec, data = folders.spec(name)["calls"][call], compare.arrays(name)
    given = {key.split("/in/")[1]: data[key] for key in data if key.startswith(call + "/in/")}
    history = zip(given["ego_history_xyz"], given["ego_history_rot"], strict=True)
    scenes = [folders.scene(name, s, h) for s, h in zip(spec["scenes"], history, strict=True)]
    said = [[int(t) for t in row if t >= 0] for row in given["completion_ids"]]
    words = (scenes, said, given["noise"], spec["times"], spec["guidance"])
    policy = ar1_jax.load(folders.folder(name), dtype="float32", quantization="int8")
    rounded, plain = ar1_jax.trace(policy, *words), ar1_jax.trace(folders.policy(name), *words)
    gap = np.linalg.norm((rounded["trajectory_xyz"] - data[f"{call}/trajectory_xyz"])[..., :2], axis=-1)
    ids = np.asarray(said[0])[: plain["logits"].shape[1]]
    log_prob = lambda named: np.asarray(jax.nn.log_softmax(named["logits"][0]))[np.arange(len(ids)), ids]
    change = np.abs(log_prob(rounded) - log_prob(plain))
    print(f"{name}: xy mean {gap.mean():.4f} max {gap.max():.4f} m, log-prob mean {change.mean():.4f} "
          f"max {change.max():.4f} nats")  # fmt: skip
    assert 1e-4 < gap.mean() < 0.07 and gap.max() < 0.3
    assert 1e-4 < change.mean() < 0.2


def test_what_cannot_be_quantised_is_refused(monkeypatch, tmp_path):
    mesh = sharding.make_mesh()
    for kind, given, said in (
        ("int7", None, "unknown 'int7' \\(did you mean \"int8\""),
        ("fp8", None, "has no eight-bit floats.*int8 runs everywhere"),
        ("int8", mesh, "not together with mesh="),
    ):
        with pytest.raises(errors.ConfigError, match=said):
            ar1_jax.load("nano", quantization=kind, mesh=given)
    with pytest.raises(errors.CheckpointError, match="quantised weights are not saved"):
        QUANTIZED.save(tmp_path / "new")
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'ar1-jax\[quantize\]'"):
        ar1_jax.load("nano", quantization="int8")
