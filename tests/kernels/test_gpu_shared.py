"""The shared-prefix kernel of Hopper and Blackwell: values in the simulator, races, fetches, lowering, buffers."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels.gpu import shared
from ar1_kernels.gpu.blocks import Blocks
from ar1_kernels.gpu.shared import Item, Shape

from tests.kernels import gpu_cases
from tests.kernels.test_gpu_flash import ROUND, lowered, slow

DECODE = Shape(1, 8, 16, 4, 3000, 256, 1, tile=64, block_rows=64, keys=64, splits=16, causal=True)
EXPERT = Shape(1, 8, 16, 256, 3000, 256, 64, tile=64, block_rows=128, keys=128, splits=1, causal=False)


@pytest.mark.parametrize("case", [
    "decode", slow("decode without suffix"), slow("few queries"), slow("expert"), slow("learner"),
    *(f"blackwell {name}" for name in ("decode", "few queries", "expert", "learner"))])  # fmt: skip
def test_values_are_those_of_one_softmax(case):
    found = gpu_cases.run(case)
    assert found["out"] < ROUND and found["lse"] < 1e-5 and found["dtype"] == "bfloat16", found
    assert not found["races"]


def items(shape, prefix_length, suffix_length=None):
    return Item(*np.asarray(shared.work(shape, prefix_length, suffix_length)).T)


@pytest.mark.parametrize("sequences", [1, 4, 16])
@pytest.mark.parametrize("length", [2999, 1000, 64, 1, 0])
def test_a_prefix_block_is_fetched_once_for_all_sequences(sequences, length):
    shape = DECODE._replace(sequences=sequences)
    found = items(shape, np.array([length]), np.full((1, sequences), 200))
    fetched = np.zeros((8, 47), int)
    for head, first, last in zip(found.head, found.first, found.last, strict=True):
        fetched[head, first:last] += 1
    assert (fetched[:, : -(-length // 64)] == 1).all() and fetched.sum() == 8 * -(-length // 64)


def test_the_parts_of_one_scene_fill_the_chip():
    size = Blocks(consumers=1, keys=64)
    assert shared._splits(DECODE, size) * DECODE.heads >= 128  # of 132 multiprocessors
    assert shared._splits(DECODE._replace(batch=8), size) == 2
    assert shared._splits(DECODE, dataclasses.replace(size, unit="tcgen05")) * DECODE.heads >= 144  # of 148
    assert shared._splits(DECODE._replace(prefix=100), size) == 2  # no more parts than blocks
    found = items(DECODE, np.array([3000]), np.full((1, 16), 256))
    sizes = (found.last - found.first)[: 8 * 16]
    assert sizes.max() == 3 and len(found.head) == 8 * 16 + 16 * 8


def test_every_row_of_a_sequence_is_stored_once():
    for shape, rows in ((EXPERT, 16 * 256), (EXPERT._replace(rows=300, own=100), 16 * 304), (DECODE, 16 * 8)):
        found = items(shape, np.array([3000]), np.full((1, 16), 256))
        stored = np.zeros((8, shared._results(shape)), int)
        for head, result, store in zip(found.head, found.result * shared.ALIGN, found.store, strict=True):
            stored[head, result : result + store] += 1
        assert (stored == 1).all() and stored.shape[1] >= rows


def test_dead_suffix_and_own_blocks_are_not_fetched():
    shape = EXPERT._replace(rows=1200, own=300, sequences=2, causal=True)
    found = items(shape, np.array([5]), np.array([[0, 129]]))
    assert set(found.last) == {1}
    assert set(found.suffix[found.sequence < 8]) == {0} and set(found.suffix[found.sequence >= 8]) == {2}
    assert list(found.own[:10]) == [
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        3,
        3,
    ]  # 128 rows are 32 queries: keys up to 31, 63, ...


def arguments(batch, heads, sequences, rows, width, prefix, suffix, own):
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype)
    each = lambda n: array(batch, sequences, heads, n, width) if n else None
    keys = array(batch, heads, prefix, width)
    lengths = array(batch, dtype=jnp.int32), array(batch, sequences, dtype=jnp.int32) if suffix else None
    return (array(batch, heads, sequences, rows, width), keys, keys, lengths[0], each(suffix), each(suffix), lengths[1],
            each(own), each(own))  # fmt: skip


@pytest.mark.parametrize("kind, shape", [
    ("NVIDIA H200", (1, 8, 16, 4, 128, 3000, 256, 1)), ("NVIDIA H100 80GB HBM3", (1, 8, 12, 720, 128, 3000, 0, 180)),
    *((kind, (1, 8, *rows, 128, 3000, 0, 0)) for kind in ("NVIDIA H200", "NVIDIA B200")
      for rows in ((32, 4), (64, 4), (16, 16), (4, 50), (4, 100))),
    ("NVIDIA B200", (1, 8, 16, 4, 128, 3000, 256, 1)), ("NVIDIA B200", (1, 8, 12, 720, 128, 3000, 0, 180)),
])  # fmt: skip
def test_lowers_to_one_kernel_and_no_buffer_of_the_prefix_for_every_sequence(kind, shape):
    text = lowered(kind, functools.partial(shared.forward, causal=True, scale=1.0), *arguments(*shape))
    assert text.count("@mosaic_gpu_v2") == 1
    largest = max(
        math.prod(map(int, found.split("x")[:-1])) for found in re.findall(r"tensor<((?:\d+x)+)\w+>", text)
    )
    assert largest < math.prod(shape[1:3]) * shape[5] * shape[4]


def test_refuses_float32():
    args = [x if x is None or x.dtype == jnp.int32 else jax.ShapeDtypeStruct(x.shape, jnp.float32)
            for x in arguments(1, 1, 2, 4, 64, 64, 0, 0)]  # fmt: skip
    with pytest.raises(ValueError, match="tf32"):
        jax.eval_shape(functools.partial(shared.forward, causal=True, scale=1.0), *args)
