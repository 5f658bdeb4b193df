"""The sizes a policy comes in, as the config files of a checkpoint folder.

`nano` is the embedded default (every mechanism, own small vocabulary, 16 controls of 0.4 s). Released shapes and
figures: inference.md sections 1.1 and 1.2. One number a line is one decision; nothing else is configured here.
"""

import dataclasses

from ar1_jax import actions
from ar1_jax.core import errors
from ar1_jax.text import coc, prompt, vocabulary

CAMERAS = (0, 1, 2, 6)


@dataclasses.dataclass(frozen=True)
class Size:
    """Widths and depths: d width, layers, h heads, j kv heads, e head width, f ffn; v… of the vision tower, x… of the
    expert. vocab 0: the size of the vocabulary built with it."""

    d: int
    layers: int
    h: int
    j: int
    e: int
    f: int
    mrope: tuple[int, int, int]
    v_width: int
    v_layers: int
    v_heads: int
    v_f: int
    v_taps: tuple[int, ...]
    v_positions: int
    x_width: int
    x_heads: int
    x_f: int
    x_in: int
    vocab: int = 155_697


SIZES = {
    "nano": Size(128, 4, 4, 2, 32, 160, (6, 5, 5), 96, 3, 3, 192, (1,), 64, 64, 4, 80, 64, vocab=0),
    "0p5b": Size(1024, 28, 16, 8, 128, 3072, (24, 20, 20), 768, 12, 12, 3072, (3, 6, 9), 2304, 512, 8, 2064, 512),
    "3b": Size(2048, 36, 16, 2, 128, 11_008, (24, 20, 20), 1152, 27, 16, 4304, (8, 16, 24), 2304, 1024, 8, 4128, 512),
    "7b": Size(3584, 28, 28, 4, 128, 18_944, (24, 20, 20), 1152, 27, 16, 4304, (8, 16, 24), 2304, 1792, 16, 7224, 512),
    "10b": Size(4096, 36, 32, 8, 128, 12_288, (24, 20, 20), 1152, 27, 16, 4304, (8, 16, 24), 2304, 2048, 16, 8256, 512),
}  # fmt: skip
ALIASES = {"r1_10b": "10b", "v1_5_10b": "10b"}

RELEASED_SPACE = {
    "accel_mean": 0.02902694707164455, "accel_std": 0.6810426736454882, "curvature_mean": 0.0002692167976330542,
    "curvature_std": 0.026148280660833106, "accel_bounds": [-9.8, 9.8], "curvature_bounds": [-0.33, 0.33], "dt": 0.1,
    "n_waypoints": 64, "theta_lambda": 1e-6, "theta_ridge": 1e-8, "v_lambda": 1e-6, "v_ridge": 1e-4, "a_lambda": 1e-4,
    "a_ridge": 1e-4, "kappa_lambda": 1e-4, "kappa_ridge": 1e-4,
}  # fmt: skip
NANO_REASONING = 18  # most reasoning ids; the longest written text has 16
NANO_PIXELS = 160 * 96


def size(name: str) -> Size:
    """A size by name; ConfigError for an unknown one."""
    known = {**SIZES, **{alias: SIZES[target] for alias, target in ALIASES.items()}}
    return known[errors.one_of(name, known, "model")]


def vlm_config(s: Size) -> dict:
    """config.json of the vision-language part, in Qwen3-VL's keys."""
    text = {
        "hidden_size": s.d, "intermediate_size": s.f, "num_hidden_layers": s.layers, "num_attention_heads": s.h,
        "num_key_value_heads": s.j, "head_dim": s.e, "rms_norm_eps": 1e-6, "rope_theta": 5_000_000.0,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": list(s.mrope), "rope_type": "default"},
        "model_type": "qwen3_vl_text",
    }  # fmt: skip
    vision = {
        "depth": s.v_layers, "hidden_size": s.v_width, "intermediate_size": s.v_f, "num_heads": s.v_heads,
        "num_position_embeddings": s.v_positions, "out_hidden_size": s.d, "deepstack_visual_indexes": list(s.v_taps),
        "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "model_type": "qwen3_vl",
    }  # fmt: skip
    return {
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": False,
    }


def nano_trajectory_ids() -> int:
    """Ids that nano's action and history bins take."""
    return 2 * actions.nano_future().num_bins + actions.nano_history().num_bins


def nano_tokenizer() -> str:
    """tokenizer.json of nano: the words of the Chain of Causation, one token a fixed prompt phrase."""
    return vocabulary.word_level_json(coc.words(), prompt.phrases(CAMERAS, 2), nano_trajectory_ids())


def nano_vocabulary_size() -> int:
    """Ids of nano's vocabulary."""
    return vocabulary.Vocabulary(nano_tokenizer(), "alpamayo_nano", nano_trajectory_ids()).ids.size


def policy_config(name: str) -> dict:
    """config.json of a policy of that size: nano's own, else the released Alpamayo 1.5 (r1_10b: Alpamayo 1)."""
    s = size(name)
    nano = name == "nano"
    space = dataclasses.asdict(actions.nano_unicycle()) if nano else RELEASED_SPACE
    future = {
        "action_space_cfg": space,
        "dims_min": [-10.0, -10.0],
        "dims_max": [10.0, 10.0],
        "num_bins": 3000,
    }
    history = {
        "num_bins": 1000,
        "ego_xyz_min": [-4, -4, -10],
        "ego_xyz_max": [4, 4, 10],
        "predict_yaw": False,
    }
    if nano:
        future = dataclasses.asdict(actions.nano_future())
        future["action_space_cfg"] = future.pop("action_space")
        history = dataclasses.asdict(actions.nano_history())
    config = {
        "model_type": "alpamayo_nano" if nano else "alpamayo_r1" if name == "r1_10b" else "alpamayo1_5",
        "vlm_name_or_path": "vlm", "add_special_tokens": True, "action_space_cfg": space, "traj_tokenizer_cfg": future,
        "hist_traj_tokenizer_cfg": history,
        "traj_vocab_size": nano_trajectory_ids() if nano else 4000,
        "tokens_per_history_traj": actions.nano_history().ids if nano else 48,
        "tokens_per_future_traj": 2 * space["n_waypoints"],
        "min_pixels": NANO_PIXELS if nano else 163_840, "max_pixels": NANO_PIXELS if nano else 196_608,
        "expert_cfg": {"hidden_size": s.x_width, "intermediate_size": s.x_f, "num_attention_heads": s.x_heads,
                       "head_dim": s.e},
        "action_in_proj_cfg": {"hidden_size": s.x_in, "num_enc_layers": 2, "num_fourier_feats": 20,
                               "max_freq": 10.0 if nano else 100.0},  # nano: finer waves than its bins only add noise
        "diffusion_cfg": {"int_method": "euler", "num_inference_steps": 10},
    }  # fmt: skip
    if nano:
        config["ar1_jax"] = {"max_reasoning_tokens": NANO_REASONING}
    return config
