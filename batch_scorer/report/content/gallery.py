"""The gallery of images to look at first, packed in rows. Pure functions.

A row is four columns wide. An image with its evidence map spans two columns, any other one, so
small groups share a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.changes import format_earlier_run
from batch_scorer.report.content.saliency import describe_map, format_peak
from batch_scorer.report.content.text import (
    format_count,
    format_likelihood,
    format_probability,
    sanitize_text,
)
from batch_scorer.results.store import EVIDENCE_SUFFIX, thumbnail_stem
from batch_scorer.results.worklist import (
    IMAGES_PER_REASON,
    SECONDS_PER_IMAGE,
    count_reviewable,
    rank_candidates,
)

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import RunManifest, Score

COLUMNS_PER_ROW = 4
GROUP_TITLES = {
    "missed": "Missed pneumonia",
    "false_alarm": "False alarms",
    "highest": "Highest probability",
    "closest": "Closest to the threshold",
    "disagree": "Models disagree",
}


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery.

    ``thumbnail`` and ``evidence`` are the file stems of thumbnail and evidence map; ``evidence`` is
    empty where there is no map.
    """

    thumbnail: str
    name: str
    likelihood: str
    probability: str
    note: str
    alt: str
    evidence: str = ""
    evidence_note: str = ""
    evidence_alt: str = ""

    @property
    def column_span(self) -> int:
        """The number of columns that the image spans."""
        return 2 if self.evidence else 1


@dataclass(frozen=True)
class GalleryGroup:
    """Images in one row that share a reason. Only the first group of a reason has its title."""

    title: str
    text: str
    images: tuple[GalleryImage, ...]

    @property
    def column_span(self) -> int:
        """The number of columns that the group spans."""
        return sum(image.column_span for image in self.images)


def describe_empty_gallery(manifest: RunManifest) -> str:
    """Say why the gallery is empty."""
    if not manifest.scored:
        return "No film was scored, so there is none to show."
    changes = manifest.changes
    if changes and not changes.new_or_changed:
        earlier_run = format_earlier_run(changes)
        return f"No file is new since {earlier_run}, so there is none to look at first."
    which = f"No film that is new since {format_earlier_run(changes)}" if changes else "No film"
    return (
        f"{which} stands out: none was flagged, none lies close to the threshold, and no two "
        "models disagree. That does not make any of them a healthy film."
    )


def describe_selection(view: RunView) -> str:
    """Say how many images the gallery shows, and why; in a scheduled run also that they are new."""
    changes = view.manifest.changes
    new = (
        f"Only films that are new since {format_earlier_run(changes)} are shown here. "
        if changes
        else ""
    )
    return new + _describe_image_limit(view)


def _describe_image_limit(view: RunView) -> str:
    minutes = view.manifest.gallery.review_minutes
    if minutes is None:
        return f"Up to {IMAGES_PER_REASON} films are shown for each reason to look, in this order."
    text = (
        f"In {format_count(minutes, 'minute')}, at {SECONDS_PER_IMAGE} seconds a film, "
        f"{format_count(count_reviewable(minutes), 'film')} can be looked at: "
    )
    shown = sum(map(len, view.images_to_review.values()))
    if shown < count_reviewable(minutes):
        return text + f"there is a reason to look at {shown:,}, all shown here in this order."
    return text + "those below, shared among the reasons to look, in this order."


def build_gallery(view: RunView) -> tuple[tuple[GalleryGroup, ...], ...]:
    """Select the images to look at first and pack them in rows of groups."""
    ranked = rank_candidates(view.candidates, view.model.threshold)
    packed: list[list[GalleryGroup]] = []
    free_columns = 0
    for reason, found in view.images_to_review.items():
        text = describe_group(reason, len(found), len(ranked[reason]), view.card)
        parts = _split_into_rows(
            GROUP_TITLES[reason], text, [_make_image(row, view) for row in found]
        )
        if len(parts) == 1 and parts[0].column_span <= free_columns:
            packed[-1].append(parts[0])
            free_columns -= parts[0].column_span
        else:
            packed.extend([part] for part in parts)
            free_columns = COLUMNS_PER_ROW - parts[0].column_span if len(parts) == 1 else 0
    return tuple(tuple(parts) for parts in packed)


def describe_group(reason: str, shown: int, found: int, card: ModelCard) -> str:
    """Say why these images were selected, and how they are sorted."""
    near = "in the band around the threshold" if card.band else "near the threshold"
    which, order = {
        "missed": (
            "labelled pneumonia, yet not flagged",
            "the least probable first: there the model was most wrong, or the label is",
        ),
        "false_alarm": (
            "labelled normal, yet flagged: more to read, but no patient is missed",
            "the most probable first: there the model was most wrong, or the label is",
        ),
        "highest": ("flagged", "the most probable first: there pneumonia is found soonest"),
        "closest": (
            f"{near}, flagged or not",
            "the nearest first: there the answer could most easily turn",
        ),
        "disagree": (
            "judged otherwise by another model",
            "the least agreement first: there the models know least",
        ),
    }[reason]
    number = f"{shown:,} of {found:,}" if shown < found else "All" if found > 1 else "The one"
    verb, images = ("are", "films") if found > 1 else ("is", "film")
    ending = f"; {order}." if shown > 1 else "."
    return f"{number} {images} that {verb} {which}{ending}"


def _split_into_rows(title: str, text: str, images: list[GalleryImage]) -> list[GalleryGroup]:
    rows: list[list[GalleryImage]] = [[]]
    for image in images:
        if sum(f.column_span for f in rows[-1]) + image.column_span > COLUMNS_PER_ROW:
            rows.append([])
        rows[-1].append(image)
    return [
        GalleryGroup(*((title, text) if first else ("", "")), images=tuple(row))
        for first, row in zip([True] + [False] * len(rows), rows, strict=False)
    ]


def _make_image(row: Score, view: RunView) -> GalleryImage:
    name = sanitize_text(row.image)
    likelihood = format_likelihood(row.probability)
    probability = format_probability(row.probability, view.model.threshold)
    notes = ["flagged" if row.prediction == CLASSES[1] else "not flagged"]
    if row.undecided:
        notes.append("uncertain: in the band around the threshold")
    if row.atypical:
        notes.append("atypical: unlike most training films")
    if row.label:
        notes.append(f"labelled {row.label.lower()}")
    if row.agreement is not None and row.agreement < 1:
        others = round(row.agreement * len(view.cards)) - 1
        notes.append(f"{others} of {len(view.cards) - 1} other models agree")
    thumbnail = thumbnail_stem(row)
    peak = view.manifest.gallery.maps.get(thumbnail)
    return GalleryImage(
        thumbnail=thumbnail,
        name=name,
        likelihood=likelihood,
        probability=probability,
        note=", ".join(notes),
        alt=f"Chest film {name}. Pneumonia {likelihood}, probability {probability}, {notes[0]}.",
        evidence=f"{thumbnail}{EVIDENCE_SUFFIX}" if peak else "",
        evidence_note=format_peak(peak) if peak else "",
        evidence_alt=describe_map(name, peak, view.card) if peak else "",
    )
