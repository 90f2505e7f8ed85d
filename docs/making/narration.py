"""What is spoken to each slide, and when: sentences, captions and a script. Pure functions.

How long a sentence takes is reckoned from its text, and the voice is fitted to that. So captions
depend on the words alone: any voice, on any machine, gives the same ones.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch_scorer.report.formats.slides_pdf import SpokenSlide

LETTERS_PER_SECOND = 14.0
LETTERS_OF_A_DIGIT = 5
"""A digit is spoken as a word."""
BREATH_S = 0.4
SLIDE_PAUSE_S = 1.2
LINE_LENGTH = 42
LINES = 2
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a talk, and how long it is spoken."""

    text: str
    seconds: float


@dataclass(frozen=True)
class SpokenPage:
    """One slide of a talk: it is shown in silence for a moment, then its sentences are spoken."""

    title: str
    sentences: tuple[Sentence, ...]

    @property
    def seconds(self) -> float:
        """How long the slide is shown."""
        return SLIDE_PAUSE_S + sum(sentence.seconds for sentence in self.sentences)


@dataclass(frozen=True)
class Caption:
    """One or two lines on the screen, from ``start_s`` to ``end_s`` of the talk."""

    start_s: float
    end_s: float
    text: str


def plan_talk(slides: Sequence[SpokenSlide]) -> list[SpokenPage]:
    """Cut the notes of each slide into sentences, and say how long each takes."""
    return [
        SpokenPage(
            " ".join(slide.title.split()),
            tuple(
                Sentence(text, reckon_seconds(text))
                for text in _SENTENCE_END.split(" ".join(slide.notes.split()))
                if text
            ),
        )
        for slide in slides
    ]


def reckon_seconds(text: str) -> float:
    """How long a sentence is spoken, with the breath after it."""
    digits = sum(char.isdigit() for char in text)
    letters = len(text) + (LETTERS_OF_A_DIGIT - 1) * digits
    return round(BREATH_S + letters / LETTERS_PER_SECOND, 2)


def write_captions(pages: Sequence[SpokenPage]) -> str:
    """The captions of a talk as WebVTT."""
    cues = [
        f"{_clock(cue.start_s)} --> {_clock(cue.end_s)}\n{_escape(cue.text)}"
        for cue in list_captions(pages)
    ]
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def list_captions(pages: Sequence[SpokenPage]) -> list[Caption]:
    """Every sentence in cues of at most two lines, each shown for its share of the sentence."""
    captions: list[Caption] = []
    now = 0.0
    for page in pages:
        now += SLIDE_PAUSE_S
        for sentence in page.sentences:
            captions += _cut(sentence, now)
            now += sentence.seconds
    return captions


def write_script(pages: Sequence[SpokenPage], about: str) -> str:
    """The talk as Markdown: for each slide when it comes, its message and what is said."""
    parts = [f"# What is said in the walkthrough\n\n{about}"]
    now = 0.0
    for number, page in enumerate(pages, 1):
        told = " ".join(sentence.text for sentence in page.sentences)
        start = f"{int(now) // 60}:{int(now) % 60:02d}"
        parts.append(f"## {number}. {page.title}\n\n*{start}*\n\n{textwrap.fill(told, 100)}")
        now += page.seconds
    return "\n\n".join(parts) + "\n"


def _cut(sentence: Sentence, start_s: float) -> Iterator[Caption]:
    cues = _balance(sentence.text)
    letters = sum(len(cue) for cue in cues)
    for cue in cues:
        end_s = start_s + sentence.seconds * len(cue) / letters
        yield Caption(start_s, end_s, cue)
        start_s = end_s


def _balance(text: str) -> list[str]:
    """Cues of one or two lines, about as long as each other: no last word stands alone."""
    number = -(-len(textwrap.wrap(text, LINE_LENGTH)) // LINES)
    while True:
        width = len(text) // number
        while len(parts := textwrap.wrap(text, width)) > number:
            width += 1
        cues = [textwrap.wrap(part, LINE_LENGTH) for part in parts]
        if all(len(lines) <= LINES for lines in cues):
            return ["\n".join(lines) for lines in cues]
        number += 1


def _clock(seconds: float) -> str:
    thousandths = round(1000 * seconds)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
