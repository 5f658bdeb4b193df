"""The sizes as configs/models.py gives them. The reference: numbers of their description, written by hand."""

import pytest

from ar1_jax.core import config, errors

# name: text D, layers, H, J, F; vision width, layers, heads, F, taps; expert D, heads, F
EXPECTED = {
    "nano": (128, 4, 4, 2, 160, 96, 3, 3, 192, (1,), 64, 4, 80),
    "0p5b": (1024, 28, 16, 8, 3072, 768, 12, 12, 3072, (3, 6, 9), 512, 8, 2064),
    "3b": (2048, 36, 16, 2, 11_008, 1152, 27, 16, 4304, (8, 16, 24), 1024, 8, 4128),
    "7b": (3584, 28, 28, 4, 18_944, 1152, 27, 16, 4304, (8, 16, 24), 1792, 16, 7224),
    "r1_10b": (4096, 36, 32, 8, 12_288, 1152, 27, 16, 4304, (8, 16, 24), 2048, 16, 8256),
}
EXPECTED["v1_5_10b"] = EXPECTED["10b"] = EXPECTED["r1_10b"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_size_has_the_described_widths(name):
    c = config.load(f"configs/models.py:{name}")
    text, vision, expert = c.text, c.vision, c.policy.expert_cfg
    assert EXPECTED[name] == (
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads,
        text.intermediate_size, vision.hidden_size, vision.depth, vision.num_heads, vision.intermediate_size,
        tuple(vision.deepstack_visual_indexes), expert.hidden_size, expert.num_attention_heads,
        expert.intermediate_size,
    )  # fmt: skip
    assert vision.out_hidden_size == text.hidden_size and text.head_dim == expert.head_dim
    assert sum(text.rope_scaling.mrope_section) * 2 == text.head_dim
    assert 300 < text.vocab_size < 1000 if name == "nano" else text.vocab_size == 155_697
    assert c.policy.model_type == {"nano": "alpamayo_nano", "r1_10b": "alpamayo_r1"}.get(name, "alpamayo1_5")


def test_an_unknown_size_is_refused_with_the_nearest():
    with pytest.raises(errors.ConfigError, match="'10bb'.*10b"):
        config.load("configs/models.py:10bb")
