"""The run as slides in landscape, and what a speaker says to each of them.

One template holds both, so that they cannot drift apart: the notes of a slide are taken out before
it is printed, and written beside the deck as plain text.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from batch_scorer.report.charts import icon_arrays, performance, slide_charts
from batch_scorer.report.content.slides import build_deck
from batch_scorer.report.formats.pdf import format_created, make_pdf_metadata
from batch_scorer.report.formats.templates import load_template
from batch_scorer.report.formats.weasyprint import render_pdf
from batch_scorer.results import store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.report.content.gallery import GalleryImage
    from batch_scorer.report.content.slides import Deck, ModelFacts
    from batch_scorer.report.formats.pdf import ReportBundle
    from batch_scorer.storage.output import Output

TEMPLATE = "slides.html.j2"
MAX_EXAMPLES = 3
NOTES_LINE_CHARS = 88
_SVG_TYPE = "image/svg+xml"
_SLIDE_PATTERN = re.compile(
    r'<section class="slide" id="[a-z0-9-]+">.*?<h[12][^>]*>(?P<title>.*?)</h[12]>'
    r'.*?<div class="notes">(?P<notes>.*?)</div>\s*</section>',
    re.DOTALL,
)
_NOTES_PATTERN = re.compile(r'<div class="notes">.*?</div>', re.DOTALL)


@dataclass(frozen=True)
class SpeakerNotes:
    """A slide as a speaker needs it: its message, and what is said to it."""

    title: str
    notes: str


@dataclass(frozen=True)
class ExampleImage:
    """A film of this batch, and why it is shown."""

    reason: str
    image: GalleryImage


def write_slides(output: Output, material: ReportBundle) -> str:
    """Write ``slides.pdf`` next to the rows, and its speaker notes.

    Returns:
        Where the slides are.

    Raises:
        ReportError: Pango is missing, something in a slide is wrong, or the disk is full.
    """
    deck = build_deck(material.manifest)
    html = _render_html(material, deck)
    resources = {**material.resources, **_draw_charts(material, deck)}
    pdf = render_pdf(_NOTES_PATTERN.sub("", html), resources, make_pdf_metadata(material, "slides"))
    output.write(store.NOTES_FILE, _format_notes(material, _parse_notes(html)).encode())
    output.write(store.REPORT_FILES["slides"], pdf)
    return f"{output.url}/{store.REPORT_FILES['slides']}"


def read_speaker_notes(material: ReportBundle) -> tuple[SpeakerNotes, ...]:
    """What is said to each slide, in their order: one for each page of ``slides.pdf``."""
    return _parse_notes(_render_html(material, build_deck(material.manifest)))


def _render_html(material: ReportBundle, deck: Deck) -> str:
    """The slides as HTML, with their notes."""
    return load_template(TEMPLATE).render(
        facts=material.facts,
        deck=deck,
        pictures=material.image_names,
        created=format_created(material.facts),
        examples=_select_examples(material),
        changes=[
            (_format_augmentation_name(index), label)
            for index, label in enumerate(slide_charts.AUGMENTATION_LABELS)
        ],
        film_of_batch=bool(_select_examples(material)),
        scratch=_find_from_scratch(deck),
    )


def _parse_notes(html: str) -> tuple[SpeakerNotes, ...]:
    return tuple(
        SpeakerNotes(_strip_tags(found["title"]), _strip_tags(found["notes"]))
        for found in _SLIDE_PATTERN.finditer(html)
    )


def _strip_tags(html: str) -> str:
    return Markup(html).striptags()  # noqa: S704 - comes out of the page, so it is escaped


def _format_notes(material: ReportBundle, slides: tuple[SpeakerNotes, ...]) -> str:
    parts = [
        f"Speaker notes to slides.pdf, run {material.facts.run_id}\n"
        "Research use only. Not a medical device."
    ]
    for number, slide in enumerate(slides, 1):
        title = textwrap.fill(f"{number}. {slide.title}", NOTES_LINE_CHARS)
        parts.append(f"{title}\n\n{textwrap.fill(slide.notes, NOTES_LINE_CHARS)}")
    return "\n\n\n".join(parts) + "\n"


def _select_examples(material: ReportBundle) -> list[ExampleImage]:
    """Films whose pictures are at hand: the first one of each reason, then the others."""
    found: list[ExampleImage] = []
    why = ""
    for part in (part for row in material.facts.gallery for part in row):
        why = part.title or why
        found += [
            ExampleImage(why, film)
            for film in part.images
            if film.thumbnail in material.image_names
        ]
    first = {example.reason: example for example in reversed(found)}
    others = [example for example in found if example is not first[example.reason]]
    return [*(first[why] for why in dict.fromkeys(e.reason for e in found)), *others][:MAX_EXAMPLES]


def _find_from_scratch(deck: Deck) -> str:
    """The deep network that began from random weights, where one did."""
    for model in deck.models:
        if model.kind == "deep" and model.card.training.initial_weights != "ImageNet":
            return model.title
    return ""


def _format_augmentation_name(index: int) -> str:
    return f"change-{index}"


def _draw_charts(material: ReportBundle, deck: Deck) -> Mapping[str, tuple[bytes, str]]:
    """The pictures that only the slides have, by name."""
    svgs = {f"{deck.best.key}-training": performance.draw_training_curves([deck.best.card])}
    for model in deck.models:
        svgs |= _draw_model_charts(model)
    if deck.balance.bars:
        svgs["balance"] = slide_charts.draw_class_balance(deck.balance.bars)
    if scores := material.facts.drift.histogram:
        svgs["scores-slide"] = icon_arrays.draw_score_histogram(scores, (4.4, 3.0))
    drawn = {name: (svg.encode(), _SVG_TYPE) for name, svg in svgs.items()}
    if deck.changed:
        examples = _select_examples(material)
        film = material.resources[examples[0].image.thumbnail][0] if examples else None
        drawn |= {
            _format_augmentation_name(index): (picture, "image/jpeg")
            for index, picture in enumerate(slide_charts.augment_image(film))
        }
    return drawn


def _draw_model_charts(model: ModelFacts) -> dict[str, str]:
    part = model.performance
    drawn = {
        f"{model.key}-network": slide_charts.draw_network(model.kind),
        f"{model.key}-confusion": performance.draw_confusion(part.confusion),
    }
    if part.roc:
        drawn[f"{model.key}-roc"] = performance.draw_roc([model.card])
    return drawn
