"""Layers are scanned, so depth costs no compile time. The reference: the same prefill with 4 layers.

Processor time of this process, without the compile cache, smallest of four taken in turn: other work on the machine
only adds."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import pytest

from ar1_jax.models import alpamayo
from ar1_jax.models.config import ModelConfig, TextConfig, VisionConfig

BOUND = 1.3
TEXT = TextConfig(32, 64, 4, 4, 2, 8, 96, (2, 1, 1))
VISION = VisionConfig(4, 32, 64, 2, 16, 32, (0, 1, 2))


def seconds(layers):
    """Processor seconds to trace, lower and compile a prefill with so many decoder layers."""
    text = dataclasses.replace(TEXT, num_hidden_layers=layers)
    config = ModelConfig(text, VISION, None, image_token_id=0)
    params = jax.eval_shape(lambda key: alpamayo.init_params(config, key), jax.random.key(0))
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.int32)
    pixels = (jax.ShapeDtypeStruct((1, 8, 1536), jnp.float32),)
    prompt = alpamayo.Prompt(shape(1, 6), shape(1), shape(3, 1, 6), shape(1), shape(1, 6), pixels, ((2, 4),))
    jax.clear_caches()
    start = time.process_time()
    jax.jit(lambda p, x: alpamayo.prefill(config, p, x)).lower(params, prompt).compile()
    return time.process_time() - start


@pytest.mark.slow
def test_36_layers_compile_in_the_time_of_4(capsys):
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        seconds(4)  # what is paid once
        few, many = (min(column) for column in zip(*[(seconds(4), seconds(36)) for _ in range(4)]))
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
    with capsys.disabled():
        print(f"\nprefill: 4 layers {few:.2f} s, 36 layers {many:.2f} s, ratio {many / few:.2f}")
    assert many <= BOUND * few
