"""A checkpoint's tokenizer, extended with trajectory and special tokens in the released order.

The base tokenizer (`tokenizer.json`) gives ids 0 .. n-1; then come <i0> .. <iN-1>, then the names below, each skipped
where it exists already (inference.md section 4). Another order would collide with the checkpoint's rows.
"""

import dataclasses
import functools
import json
import pathlib
import re

import tokenizers

from ar1_jax.core import errors

SPECIAL_R1 = tuple(
    """prompt_start prompt_end image_start image_pre_tkn image_end traj_history_start traj_history_pre_tkn
    traj_history_end cot_start cot_end meta_action_start meta_action_end traj_future_start traj_future_pre_tkn
    traj_future_end traj_history traj_future image_pad vectorized_wm vectorized_wm_start vectorized_wm_end
    vectorized_wm_pre_tkn route_start route_pad route_end question_start question_end answer_start
    answer_end""".split()
)
RENAMED_V15 = {
    "image_pre_tkn": "_padding_0", "traj_history_pre_tkn": "_padding_1", "meta_action_start": "_padding_2",
    "meta_action_end": "_padding_3", "traj_future_pre_tkn": "_padding_4", "vectorized_wm": "_padding_5",
    "vectorized_wm_start": "_padding_6", "vectorized_wm_end": "_padding_7", "vectorized_wm_pre_tkn": "_padding_8",
}  # fmt: skip
TRAJECTORY_ONLY = ("traj_history", "traj_future", "traj_history_start", "traj_future_start", "traj_history_end",
                   "traj_future_end")  # fmt: skip


def special_names(family: str, add_special_tokens: bool = True) -> tuple[str, ...]:
    """The special tokens of a family, in id order: `alpamayo_r1`, or any other for the names of 1.5."""
    names = SPECIAL_R1 if add_special_tokens else TRAJECTORY_ONLY
    renamed = {} if family == "alpamayo_r1" else RENAMED_V15
    return tuple(f"<|{renamed.get(name, name)}|>" for name in names)


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids that the model needs by name; -1 for what a vocabulary lacks."""

    trajectory: int
    trajectory_count: int
    pad: int
    end_of_turn: int
    image_pad: int
    vision_start: int
    vision_end: int
    cot_start: int
    cot_end: int
    future_start: int
    future_end: int
    history: int
    route_start: int
    route_end: int
    size: int


class Vocabulary:
    """Text to ids and back, specials included; `plain` is the same without any special token (for users' text)."""

    def __init__(
        self, tokenizer_json: str, family: str, trajectory_count: int, add_special_tokens: bool = True
    ):
        self.json = tokenizer_json
        self.tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        bare = json.loads(tokenizer_json)
        added = [token["content"] for token in bare.pop("added_tokens")]
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**bare, "added_tokens": []}))
        have = set(added)
        numbers = [f"<i{i}>" for i in range(trajectory_count)]
        names = special_names(family, add_special_tokens)
        self.tokenizer.add_tokens([n for n in numbers if n not in have])
        self.tokenizer.add_special_tokens([n for n in names if n not in have])
        self.ids = self._named(trajectory_count)

    def _named(self, trajectory_count: int) -> TokenIds:
        get = lambda token: (
            -1 if self.tokenizer.token_to_id(token) is None else self.tokenizer.token_to_id(token)
        )
        shared = (
            "image_pad",
            "vision_start",
            "vision_end",
            "cot_start",
            "cot_end",
            "route_start",
            "route_end",
        )
        named = {name: get(f"<|{name}|>") for name in shared}
        return TokenIds(
            trajectory=get("<i0>"), trajectory_count=trajectory_count, pad=get("<|endoftext|>"),
            end_of_turn=get("<|im_end|>"), future_start=get("<|traj_future_start|>"),
            future_end=get("<|traj_future_end|>"), history=get("<|traj_history|>"),
            size=self.tokenizer.get_vocab_size(with_added_tokens=True), **named,
        )  # fmt: skip

    @classmethod
    def from_folder(
        cls, folder: pathlib.Path, family: str, trajectory_count: int, add_special_tokens: bool = True
    ):
        """Reads folder/tokenizer.json; CheckpointError where it is missing or no tokenizer."""
        path = pathlib.Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise errors.CheckpointError(f"{path}: missing; the tokenizer of the checkpoint's vision-language model is "
                                         "expected there (pass tokenizer= to take it from another folder)")  # fmt: skip
        try:
            return cls(path.read_text(encoding="utf-8"), family, trajectory_count, add_special_tokens)
        except Exception as error:
            raise errors.CheckpointError(f"{path}: not a tokenizer file: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_user(self, text: str) -> list[int]:
        """Ids of a user's text: a special token written in it stays ordinary text."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        """Text of ids, special tokens kept."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def decode_batch(self, rows) -> list[str]:
        """Texts of many id rows, special tokens kept."""
        return self.tokenizer.decode_batch([[int(i) for i in row] for row in rows], skip_special_tokens=False)


def between(text: str, name: str) -> str:
    """What a text says in the field `name` (cot, answer): before the first <|name_end|>, of it after the last
    <|name_start|>, stripped; empty without an end."""
    head, end, _ = text.partition(f"<|{name}_end|>")
    return head.rpartition(f"<|{name}_start|>")[2].strip() if end else ""


@functools.cache
def _piece_pattern() -> str:
    return r" ?[^\s,:.]+|[,:.]|\s"


def word_level_json(words: tuple[str, ...], phrases: tuple[str, ...], trajectory_count: int) -> str:
    """`tokenizer.json` of a small word-level vocabulary: specials, <i*>, whole phrases, <|cot_end|>, then words.

    words: what reasonings are made of, with and without a leading space, last and together with <|cot_end|>, so that
    one interval of ids holds all that a reasoning may say. phrases: fixed prompt texts, a token each.
    """
    controls = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
    ]
    names = [n for n in special_names("alpamayo1_5") if n not in ("<|cot_end|>", "<|image_pad|>")]
    numbers = [f"<i{i}>" for i in range(trajectory_count)]
    pieces = sorted({piece for word in words for text in (word, " " + word)
                     for piece in re.findall(_piece_pattern(), text)} - {" "})  # fmt: skip
    added = [*controls, *names, *numbers, *phrases, "<|cot_end|>"]
    vocab = {token: i for i, token in enumerate([*added, "<unknown>", *pieces])}
    special = {*controls, *names, "<|cot_end|>"}
    entry = lambda token: {"id": vocab[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                           "normalized": False, "special": token in special}  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [entry(token) for token in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": _piece_pattern()}, "behavior": "Isolated",
                          "invert": False},
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unknown>"},
    })  # fmt: skip
