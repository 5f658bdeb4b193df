"""Samples that reason alike, as one kind with a letter, a colour and a dash pattern. K samples."""

import dataclasses
import string
from collections.abc import Sequence

# Okabe and Ito (2008): told apart with every common colour vision deficiency, and by the dashes without colour
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)))


@dataclasses.dataclass(frozen=True)
class Kind:
    """Samples `members` (indices) with one reasoning and decision, drawn in one way."""

    letter: str
    color: str
    dash: object
    reasoning: str
    decision: str
    members: tuple[int, ...]


def group(reasoning: Sequence[str], decisions: Sequence[str]) -> list[Kind]:
    """K reasonings and decisions -> kinds, the most frequent first (ties: in the order of appearance)."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(zip(reasoning, decisions, strict=True)):
        found.setdefault(pair, []).append(index)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [
        Kind(string.ascii_uppercase[i % 26], COLORS[i % 6], DASHES[i % 6], text, decision, tuple(members))
        for i, ((text, decision), members) in enumerate(ordered)
    ]
