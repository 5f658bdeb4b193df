"""Rotary, position tables and DeepStack against worked numbers of the reference and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import alpamayo, rotary, vision
from ar1_jax.models.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig
from ar1_jax.models.decoder import Past
from ar1_jax.models.expert import fourier, frequencies, integrate

TEXT = TextConfig(32, 48, 3, 4, 2, 8, 40, (2, 1, 1))
VISION = VisionConfig(2, 16, 24, 2, 16, 32, (0, 1))
CONFIG = ModelConfig(TEXT, VISION, ExpertConfig(24, 32, 2, 16, 2, 8), image_token_id=39, actions=4)
PARAMS = jax.jit(lambda key: alpamayo.init_params(CONFIG, key))(jax.random.key(0))
RNG = np.random.default_rng(0)


def test_mrope_interleaves_the_three_axes():
    letters = "".join("THW"[axis] for axis in rotary.mrope_axes((24, 20, 20)))
    assert letters == "THW" * 20 + "TTTT"


def test_rotary_frequencies_are_the_released_ones():
    found = rotary.frequencies(5e6, 64)
    np.testing.assert_allclose(found[[1, 63]], [0.78583002, 2.5450797e-07], rtol=1e-7)


def test_vision_positions_are_interpolated_in_merge_order():
    """The table P[r] = r over 48 × 48 cells, read at 4 × 6 patches: numbers measured on the release."""
    table = jnp.arange(48.0 * 48)[:, None]
    want = [0, 9.4, 752, 761.4, 18.8, 28.2, 770.8, 780.2, 37.6, 47, 789.6, 799, 1504, 1513.4, 2256, 2265.4, 1522.8,
            1532.2, 2274.8, 2284.2, 1541.6, 1551, 2293.6, 2303]  # fmt: skip
    np.testing.assert_allclose(vision.position_table(table, 4, 6)[:, 0], want, rtol=1e-6)


def test_fourier_features_are_the_released_ones():
    config = ExpertConfig(24, 32, 2, 16, 2, fourier_features=20)
    want = [
        1.344997,
        -0.003823,
        -1.218322,
        0.884388,
        1.268862,
        -1.0022,
        0.323184,
        -1.386706,
        -0.137264,
        2.2e-05,
    ]
    want += [
        -0.437016,
        -1.414208,
        0.718117,
        -1.103566,
        -0.62449,
        0.997795,
        -1.376791,
        0.277573,
        1.407536,
        1.414214,
    ]
    np.testing.assert_allclose(fourier(jnp.float32(0.3), frequencies(config)), want, atol=2e-5)


def make_prompt(lengths=(14, 11)):
    """Two prompts with one image of 4 × 4 patches (4 tokens) each, at different places, right-padded to 16."""
    ids = RNG.integers(0, 38, (2, 16)).astype(np.int32)
    index = np.full((2, 16), -1, np.int32)
    index[0, 3:7], index[1, 5:9] = np.arange(4), np.arange(4) + 4
    positions = np.broadcast_to(np.arange(16), (3, 2, 16)).astype(np.int32)
    return alpamayo.Prompt(
        jnp.asarray(ids), jnp.asarray(lengths), jnp.asarray(positions), jnp.asarray(lengths), jnp.asarray(index),
        (jnp.asarray(RNG.normal(size=(2, 16, 1536)).astype("float32")),), ((4, 4),),
    )  # fmt: skip


PROMPT = make_prompt()
READ = jax.jit(lambda prompt: alpamayo.read(CONFIG, PARAMS, prompt, trace=True))


def test_padding_and_batch_mates_cannot_leak():
    hidden = READ(PROMPT)[0]
    other = np.array(PROMPT.input_ids)
    other[1, 11:], other[0] = 7, 1
    changed = READ(PROMPT.replace(input_ids=jnp.asarray(other)))[0]
    np.testing.assert_allclose(hidden[1, :11], changed[1, :11], atol=1e-5)
    assert np.abs(np.asarray(hidden - changed))[0, :14].max() > 1e-3  # the probe: what may change does


def test_deepstack_rows_enter_after_the_first_layers_at_image_positions_only():
    hidden, named = READ(PROMPT)[0], READ(PROMPT)[3]
    inputs, deep = named["hidden_states"], named["deepstack_embeds"]
    assert (
        inputs.shape[0] == TEXT.num_hidden_layers + 1
        and deep.shape == (2, 8, 32)
        and hidden.shape == (2, 16, 32)
    )
    silent = jax.tree.map(lambda x: x, PARAMS)
    merger = silent["vlm"]["model"]["visual"]["deepstack_merger_list"]["linear_fc2"]
    silent["vlm"]["model"]["visual"]["deepstack_merger_list"]["linear_fc2"] = jax.tree.map(
        jnp.zeros_like, merger
    )
    without = alpamayo.read(CONFIG, silent, PROMPT, trace=True)[3]["hidden_states"]
    np.testing.assert_allclose(inputs[0], without[0], atol=1e-6)
    difference = np.asarray(inputs[1] - without[1])
    np.testing.assert_allclose(difference[0, 3:7], deep[0, :4], atol=1e-5)
    np.testing.assert_allclose(difference[0, 7:14], 0, atol=1e-6)


def test_a_completion_in_pieces_equals_all_at_once():
    """Prompt + completion read as one prompt, against prefix + suffix, against one token at a time."""
    ids = RNG.integers(0, 38, (2, 1, 3)).astype(np.int32)
    prefix = alpamayo.prefill(CONFIG, PARAMS, PROMPT)
    hidden, own = alpamayo.completion(CONFIG, PARAMS, prefix, ids)
    whole = np.array(PROMPT.input_ids).repeat(1, axis=0)
    whole = np.pad(whole, ((0, 0), (0, 3)))
    index = np.pad(np.asarray(PROMPT.image_index), ((0, 0), (0, 3)), constant_values=-1)
    for row, n in enumerate((14, 11)):
        whole[row, n : n + 3] = ids[row, 0]
    positions = jnp.broadcast_to(jnp.arange(19), (3, 2, 19))
    joined = PROMPT.replace(input_ids=jnp.asarray(whole), position_ids=positions, image_index=jnp.asarray(index),
                            length=PROMPT.length + 3)  # fmt: skip
    full = alpamayo.read(CONFIG, PARAMS, joined)[0]
    for row, n in enumerate((14, 11)):
        np.testing.assert_allclose(hidden[row, 0], full[row, n - 1 : n + 2], atol=2e-5, err_msg=f"row {row}")
    suffix = jax.tree.map(lambda c: jnp.zeros_like(c), own)
    for i in range(3):
        past = Past(prefix.cache, prefix.length, suffix, jnp.full((2, 1), i))
        at = jnp.broadcast_to(prefix.next_position[:, None, None] + i, (3, 2, 1, 1))
        _, new = alpamayo.decode(CONFIG, PARAMS, alpamayo.embed(PARAMS, ids[:, :, i : i + 1]), at, past)
        suffix = jax.tree.map(lambda c, x, i=i: c.at[:, :, :, i : i + 1].set(x), suffix, new)
    np.testing.assert_allclose(suffix.k, own.k, atol=2e-5)


def test_flow_reaches_a_known_end():
    """Towards x1 with the exact field (x1 - x)/(1 - tau), Euler and midpoint both arrive; a wrong clock does not."""
    end = jnp.asarray(RNG.normal(size=(1, 2, 4, 2)).astype("float32"))
    field = lambda x, tau: (end - x) / (1 - tau[..., None, None])
    for integrator in ("euler", "midpoint"):
        last, every = integrate(field, jnp.zeros_like(end), 5, integrator)
        np.testing.assert_allclose(last, end, atol=1e-5)
        assert every.shape == (6, 1, 2, 4, 2)
    np.testing.assert_allclose(every[1], end / 5, atol=1e-5)
