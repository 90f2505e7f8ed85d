"""Films to look at first, packed in rows of three. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.card import CLASSES
from batch_scorer.report.wording import likelihood, show_name, show_probability
from batch_scorer.triage import first_look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.records import RunManifest, Score

PER_ROW = 3
GROUPS = {
    "missed": ("Missed", "Labelled pneumonia, but not flagged."),
    "false_alarm": ("False alarms", "Flagged, but labelled normal."),
    "highest": ("Highest probability", "Flagged, the most likely first."),
    "closest": ("Closest to the threshold", "Nearest first: these could easily turn."),
    "disagree": ("Models disagree", "Another model gives another answer."),
}


@dataclass(frozen=True)
class Film:
    """A film of the gallery. ``picture`` is the stem of its thumbnail."""

    picture: str
    name: str
    words: str
    probability: str
    note: str
    alt: str


@dataclass(frozen=True)
class Part:
    """Up to a row of films for one reason; only the first part of a reason has its title."""

    title: str
    text: str
    films: tuple[Film, ...]


def explain_empty_gallery(manifest: RunManifest) -> str:
    """Why there is no film to look at first."""
    if not manifest.scored:
        return "No film was scored, so there is none to show."
    return (
        "No film stands out: none was flagged, none lies close to the threshold, and no two models "
        "disagree. That does not make any of them a healthy film."
    )


def describe_gallery(rows: Sequence[Score], manifest: RunManifest) -> tuple[tuple[Part, ...], ...]:
    """The films to look at, as rows of parts; small groups share a row."""
    packed: list[list[Part]] = []
    room = 0
    for reason, found in first_look(rows, manifest.models[0].threshold).items():
        films = [_film(row, manifest) for row in found]
        if len(films) > room:
            packed.extend([part] for part in _split(reason, films))
            room = PER_ROW - len(films) if len(films) < PER_ROW else 0
        else:
            packed[-1].extend(_split(reason, films))
            room -= len(films)
    return tuple(tuple(parts) for parts in packed)


def _split(reason: str, films: list[Film]) -> list[Part]:
    return [
        Part(
            *(GROUPS[reason] if start == 0 else ("", "")),
            films=tuple(films[start : start + PER_ROW]),
        )
        for start in range(0, len(films), PER_ROW)
    ]


def _film(row: Score, manifest: RunManifest) -> Film:
    name = show_name(row.image)
    words = likelihood(row.probability)
    probability = show_probability(row.probability, manifest.models[0].threshold)
    notes = ["flagged" if row.prediction == CLASSES[1] else "not flagged"]
    if row.uncertain:
        notes.append("uncertain: in the band around the threshold")
    if row.label:
        notes.append(f"labelled {row.label.lower()}")
    if row.agreement is not None and row.agreement < 1:
        others = round(row.agreement * len(manifest.models)) - 1
        notes.append(f"{others} of {len(manifest.models) - 1} other models agree")
    return Film(
        picture=row.sha256[:16],
        name=name,
        words=words,
        probability=probability,
        note=", ".join(notes),
        alt=f"Chest film {name}. Pneumonia {words}, probability {probability}, {notes[0]}.",
    )
