"""Sharding tables on eight CPU devices. The reference: the same arithmetic on one device, and layouts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ar1_jax.core import errors, sharding, trees

RNG = np.random.default_rng(0)
PARAMS = {
    "up": {"kernel": jnp.asarray(RNG.normal(size=(8, 16)), jnp.float32), "bias": jnp.zeros(16)},
    "down": {"kernel": jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32)},
}
TABLE = [("up/kernel", P("fsdp", "tensor")), ("down/kernel", P("tensor", "fsdp")), (".*/bias", P("tensor"))]
X = jnp.asarray(RNG.normal(size=(8, 8)), jnp.float32)


def loss(params, x):
    h = jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"])
    return jnp.mean((h @ params["down"]["kernel"] - x) ** 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_a_sharded_step_equals_the_single_one(shape):
    tx = optax.adamw(1e-2)

    @jax.jit
    def step(params, state, x):
        value, gradients = jax.value_and_grad(loss)(params, x)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    single = step(PARAMS, tx.init(PARAMS), X)
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
    params = sharding.shard_tree(PARAMS, PARAMS, TABLE, mesh)
    state = sharding.shard_tree(tx.init(PARAMS), PARAMS, TABLE, mesh)
    x = jax.device_put(X, NamedSharding(mesh, P(("data", "fsdp"))))
    several = step(params, state, x)
    for (path, a), b in zip(trees.flatten(single).items(), jax.tree.leaves(several)):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)


def test_optimiser_state_lies_like_its_parameters():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)).init(PARAMS)
    placed = trees.flatten(sharding.shard_tree(state, PARAMS, TABLE, mesh))
    assert placed["1/0/mu/up/kernel"].sharding.spec == P("fsdp", "tensor")
    assert placed["1/0/nu/down/kernel"].sharding.spec == P("tensor", "fsdp")
    assert placed["1/0/nu/up/kernel"].addressable_shards[0].data.shape == (4, 8)
    assert placed["1/0/count"].sharding.spec == P()
    factored = optax.adafactor(1e-2, min_dim_size_to_factor=4).init(PARAMS)
    for path, leaf in trees.flatten(sharding.shard_tree(factored, PARAMS, TABLE, mesh)).items():
        assert leaf.sharding.spec == (P("tensor") if path.endswith("v/up/bias") else P()), path


def test_all_offenders_are_named_at_once():
    params = PARAMS | {"odd": {"kernel": jnp.zeros((6, 3))}, "extra": jnp.zeros(2)}
    table = [*TABLE, ("odd/kernel", P("fsdp", "tensor")), ("lora/.*", P()), (".*/long", P(None, None))]
    mesh = sharding.abstract_mesh(fsdp=4, tensor=2)
    with pytest.raises(errors.ShardingError) as caught:
        sharding.specs(params, table, mesh)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == [
        "extra [2]: no pattern matches",
        "odd/kernel [6, 3]: dimension 0 = 6 is not divided by fsdp = 4",
        "odd/kernel [6, 3]: dimension 1 = 3 is not divided by tensor = 2",
        "pattern '.*/long': matches no parameter",
        "pattern 'lora/.*': matches no parameter",
    ]
    with pytest.raises(errors.ShardingError, match="has 3 entries"):
        sharding.specs({"a": jnp.zeros((2, 2))}, [("a", P(None, None, "fsdp"))])
    with pytest.raises(errors.ShardingError, match="unknown axes model; there are data, fsdp, tensor"):
        sharding.specs({"a": jnp.zeros((2, 2))}, [("a", P("model"))])
    part = sharding.specs({"up": PARAMS["up"]}, TABLE, optional=True)
    assert part == {"up": {"kernel": P("fsdp", "tensor"), "bias": P("tensor")}}


def test_first_pattern_wins():
    assert sharding.specs({"a": jnp.zeros(2)}, [("a", P("data")), (".*", P())], optional=True) == {
        "a": P("data")
    }


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 8, 1), (-1, 16, 1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(errors.ShardingError, match="does not fit 8 devices"):
        sharding.make_mesh(*sizes)


def test_mesh_takes_what_is_left():
    assert dict(sharding.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(sharding.make_mesh(data=1, fsdp=-1).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


def test_activations_are_constrained_inside_a_mesh_only():
    table = {"hidden": P(("data", "fsdp"), None, "tensor")}
    x = jnp.zeros((4, 3, 2))
    assert sharding.constrain(x, "hidden", table) is x
    with jax.set_mesh(sharding.make_mesh(data=2, fsdp=2, tensor=2)):
        y = jax.jit(lambda x: sharding.constrain(x, "hidden", table))(x)
        assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
        with pytest.raises(errors.ShardingError, match="dimension 0 = 6 is not divided by data\\*fsdp = 4"):
            sharding.constrain(jnp.zeros((6, 3, 2)), "hidden", table)
        with pytest.raises(errors.ShardingError, match='did you mean "hidden"'):
            sharding.constrain(x, "hiden", table)


def test_abstract_leaves_are_sharded_and_lower_without_devices():
    mesh = sharding.abstract_mesh(data=64, fsdp=4, tensor=4)
    shapes = jax.eval_shape(lambda: PARAMS)
    placed = sharding.shard_tree(shapes, shapes, TABLE, mesh)
    x = jax.ShapeDtypeStruct((256, 8), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    text = jax.jit(jax.grad(loss)).trace(placed, x).lower(lowering_platforms=("tpu",)).as_text()
    assert '"data"=64, "fsdp"=4, "tensor"=4' in text
