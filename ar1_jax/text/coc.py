"""Chain of Causation: closed decision sets, one writer, one parser, and the words they need.

N texts. A text is one sentence, decisions first, then what caused them:
"Stop, keep lane: red light within 24 m."  Distances in metres, rounded up to buckets of 12 m.
Source of the sets: the Alpamayo-R1 paper, Table 1 (one decision a channel, the first after t0); the released verb
list is unpublished, so the phrases are ours. Texts are word-level: words and the punctuation , : . are tokens.
Not here: what causes what (world/labels.py) and how a text is rewarded (rl/)."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_LONGITUDINAL = {
    "set_speed": "keep speed",
    "follow_lead": "follow lead",
    "speed_adaptation": "adapt speed",
    "gap_search": "search gap",
    "pass": "speed up to pass",
    "yield": "yield",
    "stop": "stop",
}
_LATERAL = {
    "lane_keeping": "keep lane",
    "merge_split": "merge",
    "nudge_out_left": "nudge left",
    "nudge_out_right": "nudge right",
    "nudge_in_left": "shift left",
    "nudge_in_right": "shift right",
    "lane_change_left": "change lane left",
    "lane_change_right": "change lane right",
    "pull_over": "pull over",
    "turn_left": "turn left",
    "turn_right": "turn right",
    "abort": "abort manoeuvre",
}


class _Phrase(NamedTuple):
    """How a cause is said: text, preposition before "the left|right" (None: has no side), has a distance."""

    text: str
    side: str | None
    distance: bool


_CAUSES = {
    "clear": _Phrase("road clear", None, False),
    "red_light": _Phrase("red light", None, True),
    "yellow_light": _Phrase("yellow light", None, True),
    "green_light": _Phrase("green light", None, True),
    "pedestrian_on_road": _Phrase("pedestrian on the road", "from", True),
    "pedestrian_aside": _Phrase("pedestrian standing", "on", True),
    "lead_braking": _Phrase("lead vehicle braking", None, True),
    "lead_moving": _Phrase("lead vehicle moving", None, True),
    "stopped_vehicle": _Phrase("stopped vehicle", "on", True),
    "parked_vehicle": _Phrase("parked vehicle", "on", True),
}

LONGITUDINAL = tuple(_LONGITUDINAL)
LATERAL = tuple(_LATERAL)
CAUSES = tuple(_CAUSES)
SIDES = ("left", "right")
DISTANCES = (12, 24, 36, 48, 60)  # metres, upper ends of the buckets

_LONGITUDINAL_OF = {phrase: name for name, phrase in _LONGITUDINAL.items()}
_LATERAL_OF = {phrase: name for name, phrase in _LATERAL.items()}
_TOKEN = re.compile(r"[,:.]|[^\s,:.]+")


@dataclasses.dataclass(frozen=True)
class Cause:
    """One cause: kind of CAUSES, side of SIDES where the kind has one, distance of DISTANCES where it has one."""

    kind: str
    side: str | None = None
    distance: int | None = None

    def indices(self) -> tuple[int, int, int]:
        """(kind, side, distance) as indices of CAUSES, SIDES, DISTANCES; -1 where there is none."""
        side = -1 if self.side is None else SIDES.index(self.side)
        distance = -1 if self.distance is None else DISTANCES.index(self.distance)
        return CAUSES.index(self.kind), side, distance


@dataclasses.dataclass(frozen=True)
class Trace:
    """A text taken apart: decisions (None where a channel could not be read), causes, the text, its keyframe in s."""

    longitudinal: str | None
    lateral: str | None
    causes: tuple[Cause, ...]
    text: str
    keyframe: float = 0.0


class Parsed(NamedTuple):
    """Of N texts: indices of the closed sets, -1 = unreadable; causes [N, 3] = (kind, side, distance) of the first."""

    longitudinal: np.ndarray  # i32 [N]
    lateral: np.ndarray  # i32 [N]
    causes: np.ndarray  # i32 [N, 3]


def has_side(kind: str) -> bool:
    """Whether causes of this kind name a side."""
    return _CAUSES[kind].side is not None


def cause_of(kind: int, side: int, distance: int) -> Cause:
    """The inverse of Cause.indices."""
    at = lambda names, index: None if index < 0 else names[index]
    return Cause(CAUSES[kind], at(SIDES, side), at(DISTANCES, distance))


def distance_bucket(metres) -> np.ndarray:
    """metres [...] -> i32 [...] index of DISTANCES: the bucket whose upper end is next; beyond 60 m the last."""
    index = np.searchsorted(np.asarray(DISTANCES), np.asarray(metres), side="left")
    return np.minimum(index, len(DISTANCES) - 1).astype(np.int32)


def write(longitudinal: str, lateral: str, causes: Iterable[Cause]) -> str:
    """Decisions and at least one cause -> the sentence. ValueError names what is not in the closed sets."""
    causes = tuple(causes)
    wrong = [f"{name!r} is not one of {', '.join(known)}" for name, known in
             ((longitudinal, LONGITUDINAL), (lateral, LATERAL)) if name not in known]  # fmt: skip
    if not causes:
        wrong.append("no cause given: every decision cites at least one")
    if wrong:
        raise ValueError("Chain of Causation: " + "; ".join(wrong))
    because = " and ".join(_write_cause(cause) for cause in causes)
    sentence = f"{_LONGITUDINAL[longitudinal]}, {_LATERAL[lateral]}: {because}."
    return sentence[0].upper() + sentence[1:]


def _write_cause(cause: Cause) -> str:
    phrase = _CAUSES.get(cause.kind)
    if phrase is None:
        raise ValueError(f"Chain of Causation: cause {cause.kind!r} is not one of {', '.join(CAUSES)}")
    side_fits = cause.side in SIDES if phrase.side else cause.side is None
    distance_fits = cause.distance in DISTANCES if phrase.distance else cause.distance is None
    if not (side_fits and distance_fits):
        raise ValueError(f"Chain of Causation: {cause} needs side {SIDES if phrase.side else None}"
                         f" and distance {DISTANCES if phrase.distance else None}")  # fmt: skip
    side = f" {phrase.side} the {cause.side}" if phrase.side else ""
    return phrase.text + side + (f" within {cause.distance} m" if phrase.distance else "")


@functools.cache
def _cause_of_words() -> dict[str, Cause]:
    """Every clause that can be written -> its cause: a finite set, so parsing is looking up."""
    found = {}
    for kind, phrase in _CAUSES.items():
        for side in SIDES if phrase.side else (None,):
            for distance in DISTANCES if phrase.distance else (None,):
                cause = Cause(kind, side, distance)
                found[_write_cause(cause)] = cause
    return found


def tokens(text: str) -> list[str]:
    """Words and punctuation of a text, in order: what the vocabulary maps to ids, one id a token."""
    return _TOKEN.findall(text)


def join(words_: Sequence[str]) -> str:
    """Tokens -> text: spaces between words, none before punctuation. Inverse of `tokens` for written texts."""
    return re.sub(r"\s+([,:.])", r"\1", " ".join(words_))


@functools.cache
def words() -> tuple[str, ...]:
    """Every token that the writer can emit, punctuation first, then by the alphabet."""
    found = {"and"}
    for longitudinal in LONGITUDINAL:
        found |= set(tokens(write(longitudinal, LATERAL[0], [Cause("clear")])))
    for lateral in LATERAL:
        found |= set(tokens(write(LONGITUDINAL[0], lateral, [Cause("clear")])))
    for clause in _cause_of_words():
        found |= set(tokens(clause))
    return tuple(sorted(found, key=lambda word: (word[0].isalnum(), word)))


@functools.lru_cache(maxsize=1 << 16)
def parse(text: str) -> Trace:
    """Any text -> Trace. Never raises: a channel that is not exactly of the closed set is None, an unknown cause is
    dropped. Spacing and case do not matter; the sentence may be cut anywhere."""
    flat = " ".join(tokens(text.lower()))
    decisions, _, because = flat.partition(":")
    first, _, second = (part.strip(" .") for part in decisions.partition(","))
    clauses = because.strip(" .").split(" and ")
    known = _cause_of_words()
    causes = tuple(known[clause.strip()] for clause in clauses if clause.strip() in known)
    return Trace(_LONGITUDINAL_OF.get(first), _LATERAL_OF.get(second), causes, text)


def parse_batch(texts: Sequence[str]) -> Parsed:
    """N texts -> Parsed, by `parse`."""
    traces = [parse(text) for text in texts]
    index = lambda names, name: -1 if name is None else names.index(name)
    longitudinal = [index(LONGITUDINAL, trace.longitudinal) for trace in traces]
    lateral = [index(LATERAL, trace.lateral) for trace in traces]
    causes = [trace.causes[0].indices() if trace.causes else (-1, -1, -1) for trace in traces]
    as_ids = lambda rows: np.asarray(rows, np.int32)
    return Parsed(as_ids(longitudinal), as_ids(lateral), as_ids(causes).reshape(-1, 3))
