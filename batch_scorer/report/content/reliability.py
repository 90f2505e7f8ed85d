"""Sensitivity and specificity as people, and what the probabilities are worth. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import format_split
from batch_scorer.report.content.methods import format_population
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.metrics.classification import Curve, Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest, Score

N_CLASSES = 2
MIN_IMAGES = 100


@dataclass(frozen=True)
class IconArrayPair:
    """A hundred ill of whom so many are found, a hundred well of whom so many are flagged."""

    found: int
    detected_title: str
    false_alarms: int
    false_alarms_title: str
    title: str
    alt: str


@dataclass(frozen=True)
class ReliabilityCurve:
    """One model's reliability, to be drawn."""

    label: str
    curve: Curve


@dataclass(frozen=True)
class Reliability:
    """How far the probabilities can be believed."""

    title: str
    sentences: tuple[str, ...]
    lines: tuple[ReliabilityCurve, ...]
    alt: str


def make_icon_arrays(card: ModelCard) -> IconArrayPair | None:
    """A model's reference figures as people; None where a class has no films."""
    people = format_population(card)
    return _make_icon_array_pair(
        card.reference.metrics, f"{people} with pneumonia", f"healthy {people}", format_split(card)
    )


def make_batch_icon_arrays(manifest: RunManifest) -> IconArrayPair | None:
    """The same of the labelled films of this batch."""
    if not manifest.metrics:
        return None
    found = manifest.metrics[0].metrics
    return _make_icon_array_pair(found, "films with pneumonia", "normal films", "this batch")


def describe_reliability(cards: Sequence[ModelCard]) -> Reliability:
    """How far the probabilities of models can be believed, by their reference films."""
    where = join_words(list(dict.fromkeys(format_split(card) for card in cards)))
    return Reliability(
        title=f"Reliability on the {where}; on the dotted line probabilities are right",
        sentences=(
            "Of the films that a model calls 0.8 likely, 80 of 100 should show pneumonia. ECE is "
            "how far it is off on average; 0 is best.",
            *(_describe_calibration(card) for card in cards),
        ),
        lines=tuple(
            ReliabilityCurve(sanitize_text(card.title, 60), card.reference.reliability)
            for card in cards
            if card.reference.reliability.x
        ),
        alt=f"Reliability on the {where}. {' '.join(_describe_curve(card) for card in cards)}",
    )


def describe_batch_reliability(manifest: RunManifest, rows: Sequence[Score]) -> Reliability | None:
    """The same of this batch, where it has enough labels, and of both classes."""
    labelled = [row for row in rows if row.status == "scored" and row.label]
    if len(labelled) < MIN_IMAGES or len({row.label for row in labelled}) < N_CLASSES:
        return None
    truth = [CLASSES.index(row.label) for row in labelled]
    cards = {model.name: model.card for model in manifest.models}
    lines, told = [], []
    for index, score in enumerate(manifest.metrics):
        title = sanitize_text(cards[score.model].title, 60)
        answers = [row.probabilities[index] for row in labelled]
        lines.append(ReliabilityCurve(title, classification.reliability_points(truth, answers)))
        told.append(f"{title}: ECE {format_estimate(score.metrics['ece'])}.")
    return Reliability(
        title="Reliability on this batch; on the dotted line probabilities are right",
        sentences=tuple(told),
        lines=tuple(lines),
        alt=f"Reliability on {format_count(len(labelled), 'labelled film')} of this batch. "
        f"{' '.join(told)}",
    )


def _make_icon_array_pair(
    values: Mapping[str, Estimate], ill: str, well: str, where: str
) -> IconArrayPair | None:
    recall, specificity = values["recall"].value, values["specificity"].value
    if recall is None or specificity is None:
        return None
    found, alarms = round(100 * recall), round(100 * (1 - specificity))
    found_title = f"100 {ill}: {found} found, {100 - found} missed"
    alarms_title = f"100 {well}: {alarms} wrongly flagged, {100 - alarms} not"
    return IconArrayPair(
        found=found,
        detected_title=found_title,
        false_alarms=alarms,
        false_alarms_title=alarms_title,
        title=f"Filled: flagged by the model. Hollow: not flagged. Counted on {where}",
        alt=f"Two crowds of a hundred. {found_title}. {alarms_title}.",
    )


def _describe_calibration(card: ModelCard) -> str:
    reference, validation = card.reference, card.references["validation"]
    text = (
        f"{sanitize_text(card.title, 60)}: ECE {format_estimate(reference.metrics['ece'])} on the "
        f"{format_split(card)}"
    )
    if reference is validation:
        return f"{text}, on which its threshold was chosen too."
    return (
        f"{text}; {format_estimate(validation.metrics['ece'])} on validation films, where it was "
        "calibrated."
    )


def _describe_curve(card: ModelCard) -> str:
    points = card.reference.reliability
    title = sanitize_text(card.title, 60)
    if not points.x:
        return f"{title}: no points."
    gaps = [y - x for x, y in zip(points.x, points.y, strict=True)]
    worst = max(range(len(gaps)), key=lambda place: abs(gaps[place]))
    return (
        f"{title}: furthest off where it says {points.x[worst]:.2f}, {points.y[worst]:.2f} of "
        "those films show pneumonia."
    )
