"""What a policy is made of besides its weights: read from a checkpoint folder's config files.

Keys and defaults as in inference.md section 1.1; keys of our own models sit under "ar1_jax" in config.json.
"""

import dataclasses
import pathlib

import ml_dtypes
import numpy as np

from ar1_jax import actions
from ar1_jax.checkpoints import huggingface, layouts
from ar1_jax.core import errors
from ar1_jax.models import expert as experts
from ar1_jax.models.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig
from ar1_jax.models.grammar import Grammar
from ar1_jax.text.vocabulary import TokenIds, Vocabulary

FIRST_RELEASE = "<|image_pre_tkn|>"  # a token that Alpamayo 1.5 renamed
FAMILIES = ("alpamayo_r1", "alpamayo1_5", "alpamayo_nano")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Everything static that planning needs; hashable, so it can be a static argument of jit.

    history_start: id of history bin 0. reasoning: most reasoning ids where the grammar is strict (our own models),
    0 for the releases, which stop at the trigger by themselves.
    """

    family: str
    model: ModelConfig
    ids: TokenIds
    unicycle: actions.UnicycleConfig
    history: actions.HistoryCodecConfig
    future: actions.FutureCodecConfig | None
    history_start: int
    tokens_per_history: int
    min_pixels: int
    max_pixels: int
    reasoning: int = 0

    @property
    def strict(self) -> bool:
        """Does a grammar bind the whole completion (our own models), or only forbid trajectory ids (the releases)?"""
        return self.reasoning > 0

    def grammar(self, decoder: str = "flow", room: int = 256) -> Grammar:
        """The grammar of completions for decoder "flow" (ends at the trigger) or "tokens" (with action ids).

        room: ids that a completion of a release may have before its actions; our own models bring their limit."""
        ids, bins = self.ids, 0 if self.future is None else self.future.num_bins
        if decoder not in ("flow", "tokens"):
            raise ValueError(f"decoder={decoder!r} is not one of flow, tokens")
        if decoder == "tokens" and not bins:
            raise ValueError("decoder='tokens' needs a future codec, and this checkpoint has none")
        first = (ids.trajectory, ids.trajectory + bins)
        second = (first[1], first[1] + bins) if bins and self.future.separate else first
        words = (
            (ids.cot_end, ids.size)
            if self.strict
            else (ids.trajectory + ids.trajectory_count, ids.trajectory)
        )
        return Grammar(
            words=words, cot_end=ids.cot_end, trigger=ids.future_start, future_end=ids.future_end,
            end_of_turn=ids.end_of_turn, pad=ids.pad, actions=(first, second),
            controls=self.unicycle.n_waypoints if decoder == "tokens" else 0,
            reasoning=self.reasoning if self.strict else room - 2, strict=self.strict,
        )  # fmt: skip


def _pick(source: dict, where: str, keys: dict[str, str]) -> dict:
    """{our name: source[key]}; CheckpointError that lists every missing key of the file."""
    missing = [f"key {key} is missing" for key in keys.values() if key not in source]
    errors.raise_all(missing, where, errors.CheckpointError)
    return {name: source[key] for name, key in keys.items()}


def _text(text: dict, vocab_size: int, where: str) -> TextConfig:
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "rope_theta", "rms_norm_eps")  # fmt: skip
    picked = _pick(text, f"{where}: text_config", {key: key for key in same})
    section = text.get("rope_scaling", {}).get("mrope_section")
    if section is None or sum(section) * 2 != text["head_dim"]:
        raise errors.CheckpointError(
            f"{where}: text_config.rope_scaling.mrope_section is {section}; three numbers that add up to head_dim / 2 "
            f"= {text['head_dim'] / 2:g} were expected"
        )
    return TextConfig(vocab_size=vocab_size, mrope_section=tuple(section), **picked)


def _vision(vision: dict, where: str) -> VisionConfig:
    same = (
        "depth", "hidden_size", "intermediate_size", "num_heads", "num_position_embeddings", "out_hidden_size",
        "deepstack_visual_indexes", "patch_size", "temporal_patch_size", "spatial_merge_size", "in_channels",
    )  # fmt: skip
    picked = _pick(vision, f"{where}: vision_config", {key: key for key in same})
    return VisionConfig(**{**picked, "deepstack_visual_indexes": tuple(picked["deepstack_visual_indexes"])})


def vlm_folder(folder: pathlib.Path, raw: dict, other: pathlib.Path | None = None) -> pathlib.Path:
    """Where the vision-language model's config and tokenizer lie: in the folder that vlm_name_or_path names, else in
    vlm/ (a release names a repository there), else `other`. CheckpointError where none of them is there."""
    named = str(raw.get("vlm_name_or_path", "vlm"))
    inside = [] if named.startswith(("/", "..")) else [folder / named]
    for place in [*inside, folder / "vlm", *([] if other is None else [other])]:
        if place.is_dir():
            return place
    raise errors.CheckpointError(
        f"{folder / 'config.json'}: vlm_name_or_path says {named!r}, which is no folder inside {folder}; copy the "
        f"vision-language model's config and tokenizer to {folder / 'vlm'} (or pass tokenizer= to take them from "
        "another folder)"
    )


def as_release(folder: pathlib.Path, raw: dict) -> dict:
    """config.json of a folder as a release has it: that of the training layout (post_training.md section 4) becomes
    Alpamayo 1's or 1.5's, whichever's special tokens its extended tokenizer holds."""
    if raw.get("model_type") != layouts.TRAINING:
        return raw
    extended = folder / "tokenizer.json"
    first = extended.is_file() and FIRST_RELEASE in extended.read_text(encoding="utf-8")
    return layouts.change(raw, "alpamayo_r1" if first else "alpamayo1_5")


def read(
    folder: pathlib.Path, tokenizer: pathlib.Path | None = None
) -> tuple[PolicyConfig, Vocabulary, dict]:
    """A checkpoint folder's PolicyConfig, Vocabulary and config.json as a release has it.

    tokenizer: a folder with the vision-language model's files where the checkpoint lacks them. CheckpointError for
    anything amiss."""
    folder = pathlib.Path(folder)
    where = folder / "config.json"
    raw = as_release(folder, huggingface.read_json(where))
    family = raw.get("model_type")
    if family not in FAMILIES:
        known = ", ".join((*FAMILIES, layouts.TRAINING))
        raise errors.CheckpointError(f"{where}: model_type is {family!r}, expected one of {known}")
    inside = vlm_folder(folder, raw, tokenizer)
    vlm = huggingface.read_json(inside / "config.json")
    count = raw.get("traj_vocab_size", 768)
    vocabulary = Vocabulary.from_folder(
        tokenizer or inside, family, count, raw.get("add_special_tokens", True)
    )
    ids = vocabulary.ids
    stated = {"vocab_size": ids.size, "traj_token_start_idx": ids.trajectory}
    wrong = [f"{key} is {raw[key]}, the extended tokenizer gives {value}" for key, value in stated.items()
             if key in raw and raw[key] != value]  # fmt: skip
    errors.raise_all(wrong, str(where), errors.CheckpointError)
    return build(raw, vlm, ids, family, where), vocabulary, raw


def read_vlm(vlm: dict, where) -> ModelConfig:
    """The networks of a plain vision-language model, from its config.json; `where` names the file in errors."""
    vocabulary = vlm.get("text_config", {}).get("vocab_size")
    if not isinstance(vocabulary, int):
        raise errors.CheckpointError(
            f"{where}: text_config.vocab_size is {vocabulary!r}, a number was expected"
        )
    text = _text(vlm["text_config"], vocabulary, where)
    image = vlm.get("image_token_id", -1)
    return ModelConfig(text, _vision(vlm.get("vision_config", {}), where), None, image_token_id=image)


def with_buffers(config: PolicyConfig, buffers: dict) -> PolicyConfig:
    """`config` with the action statistics and Fourier frequencies that the checkpoint stores (Alpamayo 1 does, rounded
    to its dtype); what a checkpoint lacks stays as configured."""
    prefix = "action_space."
    stats = {name.removeprefix(prefix): float(x) for name, x in buffers.items() if name.startswith(prefix)}
    config = dataclasses.replace(config, unicycle=config.unicycle.replace(**stats))
    stored = [tuple(x.reshape(-1).tolist()) for name, x in sorted(buffers.items()) if name.endswith(".freqs")]
    if not stored:
        return config
    if len(set(stored)) != 1:
        raise errors.CheckpointError("action_in_proj: the stored Fourier frequencies of x and time differ")
    expert = dataclasses.replace(config.model.expert, frequencies=stored[0])
    return dataclasses.replace(config, model=dataclasses.replace(config.model, expert=expert))


def rounded(config: PolicyConfig) -> PolicyConfig:
    """`config` with action statistics and Fourier frequencies in bfloat16, as the released code has them after loading
    in bfloat16 (inference.md section 1.6): ways differ by millimetres."""
    near = lambda x: float(np.asarray(x, ml_dtypes.bfloat16))
    names = ("accel_mean", "accel_std", "curvature_mean", "curvature_std")
    space = lambda own: own.replace(**{name: near(getattr(own, name)) for name in names})
    waves = tuple(near(x) for x in experts.frequencies(config.model.expert))
    expert = dataclasses.replace(config.model.expert, frequencies=waves)
    future = config.future and config.future.replace(action_space=space(config.future.action_space))
    model = dataclasses.replace(config.model, expert=expert)
    return dataclasses.replace(config, unicycle=space(config.unicycle), future=future, model=model)


def build(raw: dict, vlm: dict, ids: TokenIds, family: str, where) -> PolicyConfig:
    """PolicyConfig of raw config.json and vlm/config.json contents; `where` names the file in errors."""
    own = raw.get("ar1_jax", {})
    text = _text(vlm.get("text_config", {}), ids.size, f"{where.parent / 'vlm/config.json'}")
    vision = _vision(vlm.get("vision_config", {}), f"{where.parent / 'vlm/config.json'}")
    cfg, action_in = raw.get("expert_cfg", {}), raw.get("action_in_proj_cfg", {})
    expert = ExpertConfig(
        hidden_size=cfg.get("hidden_size", text.hidden_size),
        intermediate_size=cfg.get("intermediate_size", text.intermediate_size),
        num_attention_heads=cfg.get("num_attention_heads", text.num_attention_heads),
        in_hidden_size=action_in.get("hidden_size", 1024), in_layers=action_in.get("num_enc_layers", 4),
        fourier_features=action_in.get("num_fourier_feats", 20), max_frequency=action_in.get("max_freq", 100.0),
    )  # fmt: skip
    unicycle = actions.UnicycleConfig.from_dict(raw.get("action_space_cfg", {}))
    future = raw.get("traj_tokenizer_cfg")
    future = actions.FutureCodecConfig.from_dict(future) if future else None
    taken = 0 if future is None else future.num_bins * (2 if future.separate else 1)
    return PolicyConfig(
        family=family, ids=ids, unicycle=unicycle, future=future,
        model=ModelConfig(text, vision, expert, image_token_id=ids.image_pad, actions=unicycle.n_waypoints),
        history=actions.HistoryCodecConfig.from_dict(raw.get("hist_traj_tokenizer_cfg", {})),
        history_start=ids.trajectory + taken, tokens_per_history=raw.get("tokens_per_history_traj", 48),
        min_pixels=raw.get("min_pixels", 163840), max_pixels=raw.get("max_pixels", 196608),
        reasoning=own.get("max_reasoning_tokens", 0),
    )  # fmt: skip
