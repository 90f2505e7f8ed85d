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
from batch_scorer.report.content.slides import describe_deck
from batch_scorer.report.formats.pdf import created_when, make_imprint
from batch_scorer.report.formats.templates import open_template
from batch_scorer.report.formats.weasyprint import print_pdf
from batch_scorer.results import store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.report.content.gallery import Film
    from batch_scorer.report.content.slides import Deck, ModelFacts
    from batch_scorer.report.formats.pdf import Material
    from batch_scorer.storage.output import Output

TEMPLATE = "slides.html.j2"
MOST_EXAMPLES = 3
NOTES_WIDTH = 88
_SVG = "image/svg+xml"
_SLIDE = re.compile(
    r'<section class="slide" id="[a-z0-9-]+">.*?<h[12][^>]*>(?P<title>.*?)</h[12]>'
    r'.*?<div class="notes">(?P<notes>.*?)</div>\s*</section>',
    re.DOTALL,
)
_NOTES = re.compile(r'<div class="notes">.*?</div>', re.DOTALL)


@dataclass(frozen=True)
class SpokenSlide:
    """A slide as a speaker needs it: its message, and what is said to it."""

    title: str
    notes: str


@dataclass(frozen=True)
class Example:
    """A film of this batch, and why it is shown."""

    why: str
    film: Film


def write_slides(output: Output, material: Material) -> str:
    """Write ``slides.pdf`` next to the rows, and its speaker notes.

    Returns:
        Where the slides are.

    Raises:
        ReportError: Pango is missing, something in a slide is wrong, or the disk is full.
    """
    deck = describe_deck(material.manifest)
    html = _lay_out(material, deck)
    resources = {**material.resources, **_draw(material, deck)}
    pdf = print_pdf(_NOTES.sub("", html), resources, make_imprint(material, "slides"))
    output.write(store.NOTES_FILE, _as_text(material, _read_notes(html)).encode())
    output.write(store.REPORT_FILES["slides"], pdf)
    return f"{output.url}/{store.REPORT_FILES['slides']}"


def tell_slides(material: Material) -> tuple[SpokenSlide, ...]:
    """What is said to each slide, in their order: one for each page of ``slides.pdf``."""
    return _read_notes(_lay_out(material, describe_deck(material.manifest)))


def _lay_out(material: Material, deck: Deck) -> str:
    """The slides as HTML, with their notes."""
    return open_template(TEMPLATE).render(
        facts=material.facts,
        deck=deck,
        pictures=material.pictures,
        created=created_when(material.facts),
        examples=_choose_examples(material),
        changes=[(_change_name(index), label) for index, label in enumerate(slide_charts.CHANGES)],
        film_of_batch=bool(_choose_examples(material)),
        scratch=_from_scratch(deck),
    )


def _read_notes(html: str) -> tuple[SpokenSlide, ...]:
    return tuple(
        SpokenSlide(_plain(found["title"]), _plain(found["notes"]))
        for found in _SLIDE.finditer(html)
    )


def _plain(html: str) -> str:
    return Markup(html).striptags()  # noqa: S704 - comes out of the page, so it is escaped


def _as_text(material: Material, slides: tuple[SpokenSlide, ...]) -> str:
    parts = [
        f"Speaker notes to slides.pdf, run {material.facts.run_id}\n"
        "Research use only. Not a medical device."
    ]
    for number, slide in enumerate(slides, 1):
        title = textwrap.fill(f"{number}. {slide.title}", NOTES_WIDTH)
        parts.append(f"{title}\n\n{textwrap.fill(slide.notes, NOTES_WIDTH)}")
    return "\n\n\n".join(parts) + "\n"


def _choose_examples(material: Material) -> list[Example]:
    """Films whose pictures are at hand: the first one of each reason, then the others."""
    found: list[Example] = []
    why = ""
    for part in (part for row in material.facts.gallery for part in row):
        why = part.title or why
        found += [Example(why, film) for film in part.images if film.picture in material.pictures]
    first = {example.why: example for example in reversed(found)}
    others = [example for example in found if example is not first[example.why]]
    return [*(first[why] for why in dict.fromkeys(e.why for e in found)), *others][:MOST_EXAMPLES]


def _from_scratch(deck: Deck) -> str:
    """The deep network that began from random weights, where one did."""
    for model in deck.models:
        if model.kind == "deep" and model.card.training.initial_weights != "ImageNet":
            return model.title
    return ""


def _change_name(index: int) -> str:
    return f"change-{index}"


def _draw(material: Material, deck: Deck) -> Mapping[str, tuple[bytes, str]]:
    """The pictures that only the slides have, by name."""
    svgs = {f"{deck.best.key}-training": performance.draw_training([deck.best.card])}
    for model in deck.models:
        svgs |= _draw_model(model)
    if deck.balance.bars:
        svgs["balance"] = slide_charts.draw_balance(deck.balance.bars)
    if scores := material.facts.drift.histogram:
        svgs["scores-slide"] = icon_arrays.draw_scores(scores, (4.4, 3.0))
    drawn = {name: (svg.encode(), _SVG) for name, svg in svgs.items()}
    if deck.changed:
        examples = _choose_examples(material)
        film = material.resources[examples[0].film.picture][0] if examples else None
        drawn |= {
            _change_name(index): (picture, "image/jpeg")
            for index, picture in enumerate(slide_charts.change_film(film))
        }
    return drawn


def _draw_model(model: ModelFacts) -> dict[str, str]:
    part = model.performance
    drawn = {
        f"{model.key}-network": slide_charts.draw_network(model.kind),
        f"{model.key}-confusion": performance.draw_confusion(part.confusion),
    }
    if part.roc:
        drawn[f"{model.key}-roc"] = performance.draw_roc([model.card])
    return drawn
