"""Stage costs against the counts written down for the released 10B, and against XLA on one layer."""

import jax
import jax.numpy as jnp
import pytest

from ar1_jax.models import alpamayo, costs
from ar1_jax.models.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig

TEXT = TextConfig(4096, 12_288, 36, 32, 8, 128, 155_697, (24, 20, 20))
VISION = VisionConfig(27, 1152, 4304, 16, 2304, 4096, (8, 16, 24))
RELEASE = ModelConfig(TEXT, VISION, ExpertConfig(2048, 8256, 16, 512, 2), image_token_id=0)
S = 3086  # prompt of Alpamayo 1.5 with four cameras and four frames


def test_the_released_stages_cost_what_is_written_down():
    """inference.md section 12, A1.5: FLOPs a stage; its prefill attention is the causal half, 2.81 T."""
    assert costs.vision(RELEASE, 16, 720).flops == pytest.approx(11.47e12, rel=0.02)
    assert costs.prefill(RELEASE, 1, S).flops == pytest.approx((42.87 + 2.81) * 1e12, rel=0.01)
    assert costs.decode(RELEASE, 1, 1, S, 0, width=2).flops == pytest.approx((15.17 + 1.82) * 1e9, rel=0.02)
    assert costs.flow(RELEASE, 1, 1, S, 0, width=2).flops == pytest.approx(0.351e12, rel=0.03)
    assert costs.decode(RELEASE, 1, 1, S, 0, width=2).bytes == pytest.approx((15.17 + 0.455) * 1e9, rel=0.01)


def test_samples_cost_their_own_share_and_no_prefix_bytes():
    one, sixteen = (costs.decode(RELEASE, 1, k, S, 40, width=2) for k in (1, 16))
    assert sixteen.flops == pytest.approx(16 * one.flops)
    assert (
        sixteen.bytes < 1.02 * one.bytes
    )  # the weights and the one prefix dominate; sixteen prefixes would be 1.45 x


def test_a_prefill_of_one_layer_agrees_with_the_compiler():
    """XLA counts the body of a scan once, which for one layer is all of it; elementwise work is the rest."""
    text = TextConfig(128, 256, 1, 4, 2, 32, 64, (6, 5, 5))
    config = ModelConfig(text, VISION, None, 0)
    params = jax.eval_shape(lambda key: alpamayo.init_params(config, key), jax.random.key(0))
    x, positions = (
        jax.ShapeDtypeStruct((2, 1, 64, 128), jnp.float32),
        jax.ShapeDtypeStruct((3, 2, 1, 64), jnp.int32),
    )
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    run = lambda p, x, at, n: alpamayo.decode(config, p, x, at, lengths=n)[0]
    counted = jax.jit(run).lower(params, x, positions, lengths).compile().cost_analysis()["flops"]
    whole = costs.prefill(config, 2, 64).flops
    half = 2 * 4 * (64 * 64 - costs.costs.pairs(64, 64, True)) * (4 * 32 + costs.costs.SOFTMAX_FLOPS)
    assert counted == pytest.approx(whole + half, rel=0.1)  # XLA computes the masked half too
