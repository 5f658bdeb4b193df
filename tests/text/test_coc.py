"""Against sentences written by hand, and the writer against the parser over everything that can be said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ar1_jax.text import coc

WORKED = [  # sentence, longitudinal, lateral, cause
    ("Stop, keep lane: red light within 24 m.", "stop", "lane_keeping", coc.Cause("red_light", None, 24)),
    ("Yield, keep lane: pedestrian on the road from the left within 36 m.", "yield", "lane_keeping",
     coc.Cause("pedestrian_on_road", "left", 36)),
    ("Follow lead, keep lane: lead vehicle braking within 24 m.", "follow_lead", "lane_keeping",
     coc.Cause("lead_braking", None, 24)),
    ("Keep speed, nudge left: stopped vehicle on the right within 36 m.", "set_speed", "nudge_out_left",
     coc.Cause("stopped_vehicle", "right", 36)),
    ("Keep speed, keep lane: road clear.", "set_speed", "lane_keeping", coc.Cause("clear")),
]  # fmt: skip


def causes():
    def build(kind, side, distance):
        phrase = coc._CAUSES[kind]
        return coc.Cause(kind, side if phrase.side else None, distance if phrase.distance else None)

    return st.builds(build, *(st.sampled_from(names) for names in (coc.CAUSES, coc.SIDES, coc.DISTANCES)))


@pytest.mark.parametrize("sentence, longitudinal, lateral, cause", WORKED)
def test_sentences_by_hand(sentence, longitudinal, lateral, cause):
    assert coc.write(longitudinal, lateral, [cause]) == sentence
    assert coc.parse(sentence) == coc.Trace(longitudinal, lateral, (cause,), sentence)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(coc.LONGITUDINAL),
    st.sampled_from(coc.LATERAL),
    st.lists(causes(), min_size=1, max_size=3),
)
def test_parser_inverts_writer(longitudinal, lateral, why):
    text = coc.write(longitudinal, lateral, why)
    trace = coc.parse(text)
    assert (trace.longitudinal, trace.lateral, trace.causes) == (longitudinal, lateral, tuple(why))
    words = coc.tokens(text)
    assert set(words) <= set(coc.words())
    assert coc.join(words) == text
    assert coc.parse(" ".join(words)).causes == trace.causes, "spacing must not matter"


@settings(deadline=None, max_examples=200)
@given(st.text() | st.lists(st.sampled_from(coc.words()), max_size=16).map(" ".join))
def test_parser_takes_anything(text):
    trace = coc.parse(text)
    assert trace.longitudinal in (*coc.LONGITUDINAL, None)
    assert trace.lateral in (*coc.LATERAL, None)


def test_each_channel_fails_alone():
    assert coc.parse("Stop, sing: red light within 24 m.").lateral is None
    assert coc.parse("Stop, sing: red light within 24 m.").longitudinal == "stop"
    assert coc.parse("Fly, keep lane: red light within 25 m.") == coc.Trace(
        None, "lane_keeping", (), "Fly, keep lane: red light within 25 m.")  # fmt: skip
    assert coc.parse("") == coc.Trace(None, None, (), "")


def test_phrases_are_distinct_and_short():
    """Sixteen tokens a text is what the nano prompt budgets for reasoning (one cause, the longest decisions the
    world uses)."""
    for names in (coc._LONGITUDINAL, coc._LATERAL):
        assert len(set(names.values())) == len(names)
    for longitudinal, lateral in (
        ("yield", "lane_keeping"),
        ("set_speed", "nudge_out_left"),
        ("stop", "turn_left"),
    ):
        for cause in coc._cause_of_words().values():
            if cause.kind == "pedestrian_on_road" and longitudinal == "set_speed":
                continue
            assert len(coc.tokens(coc.write(longitudinal, lateral, [cause]))) <= 16


def test_batch_is_indices_of_the_sets():
    parsed = coc.parse_batch([row[0] for row in WORKED] + ["nonsense"])
    longitudinal = [coc.LONGITUDINAL.index(row[1]) for row in WORKED] + [-1]
    assert parsed.longitudinal.tolist() == longitudinal
    assert parsed.causes[1].tolist() == [coc.CAUSES.index("pedestrian_on_road"), 0, 2]
    assert parsed.causes[-1].tolist() == [-1, -1, -1]
    assert coc.cause_of(*parsed.causes[3]) == WORKED[3][3]
    assert coc.parse_batch([]).causes.shape == (0, 3)


def test_buckets_round_up():
    assert coc.distance_bucket(np.array([0.5, 12.0, 12.1, 36.0, 59.0, 75.0])).tolist() == [0, 0, 1, 2, 4, 4]


def test_writer_refuses_what_is_not_in_the_sets():
    with pytest.raises(ValueError, match="'brake' is not one of set_speed"):
        coc.write("brake", "lane_keeping", [coc.Cause("clear")])
    with pytest.raises(ValueError, match="no cause"):
        coc.write("stop", "lane_keeping", [])
    with pytest.raises(ValueError, match="needs side"):
        coc.write("stop", "lane_keeping", [coc.Cause("red_light", "left", 12)])
