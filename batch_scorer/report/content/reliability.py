"""Sensitivity and specificity as icon arrays, and calibration of probabilities. Pure functions."""

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
    format_title,
    join_words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.metrics.classification import Curve, Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import RunManifest

N_CLASSES = 2
MIN_IMAGES = 100


@dataclass(frozen=True)
class IconArrayPair:
    """Two icon arrays of 100 each: patients with pneumonia, and healthy ones with false alarms."""

    detected: int
    detected_title: str
    false_alarms: int
    false_alarms_title: str
    title: str
    alt: str


@dataclass(frozen=True)
class ReliabilityCurve:
    """One model's reliability curve with its legend text."""

    label: str
    curve: Curve


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram with its sentences."""

    title: str
    sentences: tuple[str, ...]
    curves: tuple[ReliabilityCurve, ...]
    alt: str


def make_icon_arrays(card: ModelCard) -> IconArrayPair | None:
    """Make the icon arrays of a model's reference set; None where a class has no images."""
    population = format_population(card)
    return _make_icon_array_pair(
        card.reference.metrics,
        f"{population} with pneumonia",
        f"healthy {population}",
        format_split(card),
    )


def make_batch_icon_arrays(manifest: RunManifest) -> IconArrayPair | None:
    """Make the icon arrays of the labelled images of this batch; None where there are none."""
    if not manifest.metrics:
        return None
    metrics = manifest.metrics[0].metrics
    return _make_icon_array_pair(metrics, "films with pneumonia", "normal films", "this batch")


def describe_reliability(cards: Sequence[ModelCard]) -> Reliability:
    """Describe how well the probabilities of models are calibrated, by their reference sets."""
    where = join_words(list(dict.fromkeys(format_split(card) for card in cards)))
    return Reliability(
        title=f"Reliability on the {where}; on the dotted line probabilities are right",
        sentences=(
            "Of the films that a model calls 0.8 likely, 80 of 100 should show pneumonia. ECE is "
            "how far it is off on average; 0 is best.",
            *(_describe_calibration(card) for card in cards),
        ),
        curves=tuple(
            ReliabilityCurve(format_title(card), card.reference.reliability)
            for card in cards
            if card.reference.reliability.x
        ),
        alt=f"Reliability on the {where}. {' '.join(_describe_curve(card) for card in cards)}",
    )


def describe_batch_reliability(view: RunView) -> Reliability | None:
    """Describe the calibration on this batch; None with too few labels or only one class."""
    labelled = view.labelled
    if len(labelled) < MIN_IMAGES or len({row.label for row in labelled}) < N_CLASSES:
        return None
    labels = [CLASSES.index(row.label) for row in labelled]
    cards = {card.name: card for card in view.cards}
    curves, sentences = [], []
    for index, score in enumerate(view.manifest.metrics):
        title = format_title(cards[score.model])
        probabilities = [row.probabilities[index] for row in labelled]
        curves.append(
            ReliabilityCurve(title, classification.reliability_points(labels, probabilities))
        )
        sentences.append(f"{title}: ECE {format_estimate(score.metrics['ece'])}.")
    return Reliability(
        title="Reliability on this batch; on the dotted line probabilities are right",
        sentences=tuple(sentences),
        curves=tuple(curves),
        alt=f"Reliability on {format_count(len(labelled), 'labelled film')} of this batch. "
        f"{' '.join(sentences)}",
    )


def _make_icon_array_pair(
    values: Mapping[str, Estimate], diseased: str, normal: str, where: str
) -> IconArrayPair | None:
    recall, specificity = values["recall"].value, values["specificity"].value
    if recall is None or specificity is None:
        return None
    detected, false_alarms = round(100 * recall), round(100 * (1 - specificity))
    detected_title = f"100 {diseased}: {detected} found, {100 - detected} missed"
    false_alarms_title = f"100 {normal}: {false_alarms} wrongly flagged, {100 - false_alarms} not"
    return IconArrayPair(
        detected=detected,
        detected_title=detected_title,
        false_alarms=false_alarms,
        false_alarms_title=false_alarms_title,
        title=f"Filled: flagged by the model. Hollow: not flagged. Counted on {where}",
        alt=f"Two crowds of a hundred. {detected_title}. {false_alarms_title}.",
    )


def _describe_calibration(card: ModelCard) -> str:
    reference, validation = card.reference, card.references["validation"]
    text = (
        f"{format_title(card)}: ECE {format_estimate(reference.metrics['ece'])} on the "
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
    title = format_title(card)
    if not points.x:
        return f"{title}: no points."
    gaps = [y - x for x, y in zip(points.x, points.y, strict=True)]
    worst = max(range(len(gaps)), key=lambda index: abs(gaps[index]))
    return (
        f"{title}: furthest off where it says {points.x[worst]:.2f}, {points.y[worst]:.2f} of "
        "those films show pneumonia."
    )
