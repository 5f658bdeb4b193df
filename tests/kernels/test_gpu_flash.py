"""The attention kernels of Hopper and Blackwell: values and derivatives in the simulator, races, walks, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels import backend
from ar1_kernels.gpu import cudnn, flash, operands
from ar1_kernels.gpu.blocks import Blocks, choose, here
from ar1_kernels.gpu.products import UNITS
from ar1_kernels.packed import Seen
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from tests.kernels import gpu_cases

ROUND = 2.0**-8  # the most by which a rounding to bfloat16 changes a number, relatively
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("case", [
    "forward", slow("forward segments"), slow("forward batch"), "blackwell forward", "blackwell forward batch",
])  # fmt: skip
def test_values_are_those_of_a_whole_softmax(case):
    found = gpu_cases.run(case)
    assert found["out"] < ROUND and found["lse"] < 1e-5, found
    assert found["dead"]["values"] == 0 and found["dead"]["lse"] == pytest.approx(-1e30)
    assert not found["races"]


@pytest.mark.parametrize(
    "case", [slow("backward"), slow("backward lengths"), "blackwell backward", "blackwell backward lengths"]
)
def test_derivatives_are_those_of_a_whole_softmax(case):
    found = gpu_cases.run(case)
    assert found["dtypes"] == ["float32", "bfloat16", "bfloat16"]
    assert max(found["dq"], found["dk"], found["dv"]) < 2 * ROUND, found  # weights and results are rounded
    assert not found["races"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_walks_hold_every_live_pair_and_mask_every_block_with_a_dead_one(data):
    rows, keys, block = data.draw(st.sampled_from([(8, 12, (4, 3)), (12, 9, (2, 3)), (6, 20, (3, 5))]))
    ints = lambda low, high, n: np.array(data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))
    limit = ints(0, keys, rows)
    segments = data.draw(st.booleans())
    ids = (np.sort(ints(0, 3, rows)), np.sort(ints(0, 3, keys))) if segments else ()
    live = np.arange(keys) < limit[:, None]
    if segments:
        live &= ids[0][:, None] == ids[1]
    tiles = live.reshape(rows // block[0], block[0], keys // block[1], block[1]).swapaxes(1, 2)
    seen = Seen(*(jnp.asarray(x[None], jnp.int32) for x in (limit, *ids)))
    sees, whole = operands.seen_blocks(seen, keys, *block)
    for masked_first, turn in ((False, lambda x: x), (True, lambda x: x.swapaxes(0, 1))):
        matrix = [jnp.asarray(turn(np.asarray(x[0]))) for x in (sees, whole)]
        walks = np.asarray(operands.walk(*matrix, masked_first=masked_first))
        for (start, change, stop), row in zip(walks, turn(tiles), strict=True):
            assert start <= change <= stop
            assert not row[:start].any() and not row[stop:].any()
            assert (row[change:stop] if masked_first else row[start:change]).all()
    if not segments:  # and without segments not a block more than what is seen
        assert int(sees.sum()) == tiles.any((2, 3)).sum()


def shapes(batch, heads, rows, width, keys, segments):
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype)
    ids = (array(batch, rows, dtype=jnp.int32), array(batch, keys, dtype=jnp.int32)) if segments else ()
    seen = Seen(array(batch, rows, dtype=jnp.int32), *ids)
    q, k = array(batch, heads, rows, width), array(batch, heads, keys, width)
    vector = array(batch, heads, rows, dtype=jnp.float32)
    return q, k, k, seen, vector, vector, q


def lowered(kind, f, *args):
    device = AbstractDevice(device_kind=kind, num_cores=132, platform="gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        return jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    "kind, segments, width",
    [("NVIDIA H100 80GB HBM3", False, 128), ("NVIDIA H200", True, 72), ("NVIDIA B200", True, 72),
     ("NVIDIA GB200", False, 128)],
)  # fmt: skip
def test_lowers_to_mosaic_kernels(kind, segments, width):
    args = shapes(1, 2, 700, width, 1050, segments)  # keys of an odd number of blocks
    forward = functools.partial(flash.forward, scale=1.0, out_dtype=jnp.bfloat16)
    backward = functools.partial(flash.backward, scale=1.0)
    assert lowered(kind, forward, *args[:4]).count("@mosaic_gpu_v2") == 1
    assert lowered(kind, backward, *args).count("@mosaic_gpu_v2") == 2


@pytest.mark.parametrize("dtype, width, kind, word", [
    ("float32", 128, "NVIDIA H200", "tf32"), ("bfloat16", 192, "NVIDIA H200", "128"),
    ("bfloat16", 128, "NVIDIA A100-SXM4-80GB", "A100"), ("bfloat16", 128, "NVIDIA RTX PRO 6000", "RTX PRO"),
])  # fmt: skip
def test_refuses_with_the_reason(dtype, width, kind, word):
    assert word in flash.refusal(dtype, width, kind)


@pytest.mark.parametrize(
    "kind", ["NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA B200", "NVIDIA GB300", ""]
)
def test_takes_bfloat16_on_hopper_and_blackwell(kind):
    assert all(flash.refusal(jnp.bfloat16, width, kind) is None for width in (16, 24, 64, 72, 128))


def test_calls_refuse_what_refusal_names():
    q, k, v, seen = (x for x in shapes(1, 1, 64, 64, 64, False)[:4])
    call = lambda q, scale: jax.eval_shape(
        functools.partial(flash.forward, scale=scale, out_dtype=jnp.bfloat16), q, k, v, seen)  # fmt: skip
    with pytest.raises(ValueError, match="tf32"):
        call(jax.ShapeDtypeStruct(q.shape, jnp.float32), 1.0)
    with pytest.raises(ValueError, match="scale=-1.0 is not positive"):
        call(q, -1.0)


@pytest.mark.parametrize("sizes", [{"consumers": 0}, {"consumers": 4}, {"keys": 96}, {"keys": 512}, {"stages": 0},
                                   {"splits": 0}, {"unit": "mma"}])  # fmt: skip
def test_block_sizes_validate_themselves(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        Blocks(**sizes)


@pytest.mark.parametrize("kind, unit, rows", [("NVIDIA H200", "wgmma", 128), ("NVIDIA B200", "tcgen05", 256)])
def test_the_device_decides_the_unit_and_blocks_of_another_are_refused(kind, unit, rows):
    other = {"wgmma": "tcgen05", "tcgen05": "wgmma"}[unit]
    with backend.tracing_for("gpu", kind):
        assert here("forward", 4096, None).unit == unit and here("forward", 4096, None).rows == rows
        assert here("forward", 4096, Blocks(unit=unit)) == Blocks(unit=unit)
        with pytest.raises(ValueError, match=f"blocks.unit='{other}' is not the unit of {kind}"):
            here("forward", 4096, Blocks(unit=other))


@pytest.mark.parametrize("unit", UNITS)
def test_registers_that_consumers_gain_the_producer_gives(unit):
    """A kernel starts with an equal share for all threads, in steps of eight; more than that would wait for ever."""
    for consumers, counts in UNITS[unit].registers.items():
        if counts:
            share = 65_536 // (128 * (consumers + 1)) // 8 * 8
            assert consumers * counts[0] + counts[1] <= share * (consumers + 1)
            assert all(count % 8 == 0 and 24 <= count <= 256 for count in counts)


def test_more_tensor_memory_than_there_is_is_refused():
    args = shapes(1, 1, 64, 128, 64, False)[:4]
    call = functools.partial(flash.forward, scale=1.0, out_dtype=jnp.bfloat16, blocks=Blocks(unit="tcgen05"))
    with pytest.raises(ValueError, match="take 640 columns of tensor memory, there are 512"):
        jax.eval_shape(call, *args)


def test_the_table_gives_few_rows_small_blocks_on_their_way():
    assert choose("joined", 64).consumers == 1 and choose("joined", 64).stages > choose("joined", 256).stages
    assert choose("backward", 4096).keys < choose("forward", 4096).keys


@pytest.mark.parametrize("dtype, width, kind, segments, word", [
    ("float32", 128, "NVIDIA H200", False, "float32"), ("bfloat16", 36, "", False, "multiple of 8"),
    ("bfloat16", 256, "", False, "up to 128"), ("bfloat16", 128, "NVIDIA H200", True, "segment"),
    ("bfloat16", 128, "Tesla V100-SXM2-16GB", False, "compute capability 8"),
])  # fmt: skip
def test_cudnn_refuses_with_the_reason(dtype, width, kind, segments, word):
    assert word in cudnn.refusal(dtype, width, kind, segments)
    assert cudnn.refusal("bfloat16", 128, "NVIDIA H200", False) is None


@pytest.mark.parametrize("causal, n, lengths", [(True, 5, None), (True, 9, [9, 4]), (False, 5, [6, 2])])
def test_cudnn_is_asked_for_the_attention_that_we_mean(monkeypatch, causal, n, lengths):
    """The same request answered by XLA: causality ends at the last key, lengths cut keys."""
    real = jax.nn.dot_product_attention
    asked = lambda *args, implementation, **rest: real(*args, implementation="xla", **rest)
    monkeypatch.setattr(jax.nn, "dot_product_attention", asked)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, t, h, 8)), jnp.bfloat16) for t, h in ((n, 4), (9, 2), (9, 2)))
    out = cudnn.attention(q, k, v, causal=causal, lengths=lengths, scale=0.5)
    for b, i, h in np.ndindex(2, n, 4):
        last = i + 9 - n + 1 if causal else 9
        last = min(last, lengths[b]) if lengths else last
        s = np.exp(0.5 * np.float32(k[b, :last, h // 2]) @ np.float32(q[b, i, h]))
        np.testing.assert_allclose(out[b, i, h], s @ np.float32(v[b, :last, h // 2]) / s.sum(), atol=0.03)
