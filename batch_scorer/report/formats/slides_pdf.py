"""The run as slides in landscape, with speaker notes.

One template holds both, so they cannot drift apart. The notes are removed before the slides are
printed, and written next to them as plain text.
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
    """The title of a slide and what the speaker says."""

    title: str
    notes: str


@dataclass(frozen=True)
class ExampleImage:
    """An image of this batch, and the reason to show it."""

    reason: str
    image: GalleryImage


def write_slides(output: Output, bundle: ReportBundle) -> str:
    """Write ``slides.pdf`` and its speaker notes next to the rows.

    Returns:
        The path or URL of the slides.

    Raises:
        ReportError: Pango is missing, a slide has an error, or the disk is full.
    """
    deck = build_deck(bundle.view)
    html = _render_html(bundle, deck)
    resources = {**bundle.resources, **_draw_charts(bundle, deck)}
    pdf = render_pdf(_NOTES_PATTERN.sub("", html), resources, make_pdf_metadata(bundle, "slides"))
    output.write(store.NOTES_FILE, _format_notes(bundle, _parse_notes(html)).encode())
    output.write(store.REPORT_FILES["slides"], pdf)
    return f"{output.url}/{store.REPORT_FILES['slides']}"


def read_speaker_notes(bundle: ReportBundle) -> tuple[SpeakerNotes, ...]:
    """Return the speaker notes, one for each page of ``slides.pdf``."""
    return _parse_notes(_render_html(bundle, build_deck(bundle.view)))


def _render_html(bundle: ReportBundle, deck: Deck) -> str:
    """Render the slides as HTML, with their notes."""
    return load_template(TEMPLATE).render(
        facts=bundle.facts,
        deck=deck,
        pictures=bundle.image_names,
        created=format_created(bundle.facts),
        examples=_select_examples(bundle),
        changes=[
            (_format_augmentation_name(index), label)
            for index, label in enumerate(slide_charts.AUGMENTATION_LABELS)
        ],
        film_of_batch=bool(_select_examples(bundle)),
        scratch=_find_from_scratch(deck),
    )


def _parse_notes(html: str) -> tuple[SpeakerNotes, ...]:
    return tuple(
        SpeakerNotes(_strip_tags(found["title"]), _strip_tags(found["notes"]))
        for found in _SLIDE_PATTERN.finditer(html)
    )


def _strip_tags(html: str) -> str:
    return Markup(html).striptags()  # noqa: S704 - comes out of the page, so it is escaped


def _format_notes(bundle: ReportBundle, slides: tuple[SpeakerNotes, ...]) -> str:
    parts = [
        f"Speaker notes to slides.pdf, run {bundle.facts.run_id}\n"
        "Research use only. Not a medical device."
    ]
    for number, slide in enumerate(slides, 1):
        title = textwrap.fill(f"{number}. {slide.title}", NOTES_LINE_CHARS)
        parts.append(f"{title}\n\n{textwrap.fill(slide.notes, NOTES_LINE_CHARS)}")
    return "\n\n\n".join(parts) + "\n"


def _select_examples(bundle: ReportBundle) -> list[ExampleImage]:
    """Select images with a thumbnail: the first of each reason, then others."""
    found: list[ExampleImage] = []
    reason = ""
    for part in (part for row in bundle.facts.gallery for part in row):
        reason = part.title or reason
        found += [
            ExampleImage(reason, image)
            for image in part.images
            if image.thumbnail in bundle.image_names
        ]
    first = {example.reason: example for example in reversed(found)}
    others = [example for example in found if example is not first[example.reason]]
    return [*(first[reason] for reason in dict.fromkeys(e.reason for e in found)), *others][
        :MAX_EXAMPLES
    ]


def _find_from_scratch(deck: Deck) -> str:
    """Return the title of a deep network trained from random weights; empty if there is none."""
    for model in deck.models:
        if model.kind == "deep" and model.card.training.initial_weights != "ImageNet":
            return model.title
    return ""


def _format_augmentation_name(index: int) -> str:
    return f"change-{index}"


def _draw_charts(bundle: ReportBundle, deck: Deck) -> Mapping[str, tuple[bytes, str]]:
    """Draw the figures that only the slides have, by name."""
    svgs = {f"{deck.best.key}-training": performance.draw_training_curves([deck.best.card])}
    for model in deck.models:
        svgs |= _draw_model_charts(model)
    if deck.balance.classes:
        svgs["balance"] = slide_charts.draw_class_balance(deck.balance.classes)
    if scores := bundle.facts.drift.histogram:
        svgs["scores-slide"] = icon_arrays.draw_score_histogram(scores, (4.4, 3.0))
    drawn = {name: (svg.encode(), _SVG_TYPE) for name, svg in svgs.items()}
    if deck.augmented:
        examples = _select_examples(bundle)
        jpeg = bundle.resources[examples[0].image.thumbnail][0] if examples else None
        drawn |= {
            _format_augmentation_name(index): (body, "image/jpeg")
            for index, body in enumerate(slide_charts.augment_image(jpeg))
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
