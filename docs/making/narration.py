"""The narration of the slides: sentences with durations, captions and a script. Pure functions.

The duration of a sentence is estimated from its text, and the voice is fitted to it. Captions
therefore depend on the text alone: they are the same with any voice on any machine.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch_scorer.report.formats.slides_pdf import SpeakerNotes

CHARS_PER_SECOND = 14.0
CHARS_PER_DIGIT = 5
"""A digit is spoken as a word."""
SENTENCE_PAUSE_S = 0.4
SLIDE_PAUSE_S = 1.2
MAX_LINE_CHARS = 42
MAX_LINES = 2
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a talk and its duration."""

    text: str
    duration_s: float


@dataclass(frozen=True)
class NarratedSlide:
    """One slide of a talk: a short silence, then its sentences."""

    title: str
    sentences: tuple[Sentence, ...]

    @property
    def duration_s(self) -> float:
        """The time that the slide is shown."""
        return SLIDE_PAUSE_S + sum(sentence.duration_s for sentence in self.sentences)


@dataclass(frozen=True)
class Caption:
    """One or two lines on the screen, from ``start_s`` to ``end_s`` of the talk."""

    start_s: float
    end_s: float
    text: str


def plan_narration(slides: Sequence[SpeakerNotes]) -> list[NarratedSlide]:
    """Split the notes of each slide into sentences with estimated durations."""
    return [
        NarratedSlide(
            " ".join(slide.title.split()),
            tuple(
                Sentence(text, estimate_duration_s(text))
                for text in _SENTENCE_END.split(" ".join(slide.notes.split()))
                if text
            ),
        )
        for slide in slides
    ]


def estimate_duration_s(text: str) -> float:
    """Estimate the duration of a sentence, with the pause after it."""
    digits = sum(char.isdigit() for char in text)
    letters = len(text) + (CHARS_PER_DIGIT - 1) * digits
    return round(SENTENCE_PAUSE_S + letters / CHARS_PER_SECOND, 2)


def format_webvtt(slides: Sequence[NarratedSlide]) -> str:
    """Format the captions of a talk as WebVTT."""
    cues = [
        f"{_format_time(cue.start_s)} --> {_format_time(cue.end_s)}\n{_escape_webvtt(cue.text)}"
        for cue in make_captions(slides)
    ]
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def make_captions(slides: Sequence[NarratedSlide]) -> list[Caption]:
    """Make captions of at most two lines, each shown for its share of the sentence."""
    captions: list[Caption] = []
    now = 0.0
    for slide in slides:
        now += SLIDE_PAUSE_S
        for sentence in slide.sentences:
            captions += _split_into_captions(sentence, now)
            now += sentence.duration_s
    return captions


def format_script(slides: Sequence[NarratedSlide], about: str) -> str:
    """Format the talk as Markdown: start time, title and text of each slide."""
    parts = [f"# What is said in the walkthrough\n\n{about}"]
    now = 0.0
    for number, slide in enumerate(slides, 1):
        text = " ".join(sentence.text for sentence in slide.sentences)
        start = f"{int(now) // 60}:{int(now) % 60:02d}"
        parts.append(f"## {number}. {slide.title}\n\n*{start}*\n\n{textwrap.fill(text, 100)}")
        now += slide.duration_s
    return "\n\n".join(parts) + "\n"


def _split_into_captions(sentence: Sentence, start_s: float) -> Iterator[Caption]:
    cues = _balance_lines(sentence.text)
    letters = sum(len(cue) for cue in cues)
    for cue in cues:
        end_s = start_s + sentence.duration_s * len(cue) / letters
        yield Caption(start_s, end_s, cue)
        start_s = end_s


def _balance_lines(text: str) -> list[str]:
    """Split a text into cues of one or two lines of similar length, without a stray last word."""
    number = -(-len(textwrap.wrap(text, MAX_LINE_CHARS)) // MAX_LINES)
    while True:
        width = len(text) // number
        while len(parts := textwrap.wrap(text, width)) > number:
            width += 1
        cues = [textwrap.wrap(part, MAX_LINE_CHARS) for part in parts]
        if all(len(lines) <= MAX_LINES for lines in cues):
            return ["\n".join(lines) for lines in cues]
        number += 1


def _format_time(seconds: float) -> str:
    thousandths = round(1000 * seconds)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escape_webvtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
