"""What is spoken and when: nothing lost, nothing out of order, and no cue too large to read."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from batch_scorer.report.formats.slides_pdf import SpeakerNotes
from docs.making import narration
from docs.making.narration import format_script, format_webvtt, make_captions, plan_narration

SLIDES = (
    SpeakerNotes(
        "A first\n  message", "Why? Because 0.907 of 624 films & more are <right>.  So it is!"
    ),
    SpeakerNotes("A second", "One long sentence " + "that goes on and on " * 12 + "and ends."),
)
WORDS = st.lists(st.text("abcdefgh0123", min_size=1, max_size=12), min_size=1, max_size=60)


def test_all_words_are_spoken_in_their_order():
    told = " ".join(caption.text for caption in make_captions(plan_narration(SLIDES)))
    assert told.split() == " ".join(slide.notes for slide in SLIDES).split()


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_cues_follow_each_other_and_can_be_read(notes):
    pages = plan_narration([SpeakerNotes("t", " ".join(words) + ".") for words in notes])
    cues = make_captions(pages)
    assert all(cue.start_s < cue.end_s for cue in cues)
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in pairwise(cues))
    assert all(
        len(line) <= narration.MAX_LINE_CHARS for cue in cues for line in cue.text.split("\n")
    )
    assert all(cue.text.count("\n") < narration.MAX_LINES for cue in cues)
    assert abs(cues[-1].end_s - sum(page.duration_s for page in pages)) < 0.01


def test_a_digit_takes_the_time_of_a_word():
    assert narration.estimate_duration_s("0.975") > narration.estimate_duration_s("a.bcd")


def test_captions_are_webvtt_whose_text_cannot_be_a_tag():
    text = format_webvtt(plan_narration(SLIDES))
    assert text.startswith("WEBVTT\n\n00:00:01.200 --> ")
    assert "films &amp; more" in " ".join(text.split())
    assert "&lt;right&gt;" in text
    times = re.findall(r"^(\S+) --> (\S+)$", text, re.MULTILINE)
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time) for pair in times for time in pair)


def test_the_script_has_each_slide_and_when_it_comes():
    text = format_script(plan_narration(SLIDES), "About.")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["1. A first message", "2. A second"]
    assert "*0:00*" in text
