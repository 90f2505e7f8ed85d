"""Estimates for a batch without labels: expected counts, prevalence, limits. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.metrics.prevalence import adjusted_prevalence, expected_count
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import format_split
from batch_scorer.report.content.text import (
    format_count,
    format_integer_interval,
    format_per_hundred,
    format_title,
    format_value,
    sanitize_text,
)
from batch_scorer.results.drift import MIN_IMAGES, DriftLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evaluation
    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.drift import Drift
    from batch_scorer.results.schema import Score

INTEGERS_FROM = 10
N_QUANTILES = 2001


@dataclass(frozen=True)
class ExpectedCountRow:
    """One expected count of this batch, the same sum on the reference set, and the truth there."""

    quantity: str
    number: str
    interval: str
    images: str
    reference_estimate: str
    true_count: str


@dataclass(frozen=True)
class LabelFreeEstimates:
    """Estimates of a batch without labels. With too few images only ``lead`` is filled."""

    lead: str
    rows: tuple[ExpectedCountRow, ...]
    reference_set: str
    prevalence: str
    limits: tuple[str, ...]


def describe_label_free(view: RunView) -> LabelFreeEstimates | None:
    """Estimate counts and prevalence of a batch; None if it has labels or no scored image.

    Copies are counted once.
    """
    manifest, card = view.manifest, view.card
    images = [row for row in view.rows if row.status == "scored" and not row.duplicate_of]
    if manifest.metrics or not images:
        return None
    if len(images) < MIN_IMAGES:
        verb = "is" if len(images) == 1 else "are"
        lead = (
            f"{format_count(len(images), 'film')} {verb} too few to estimate anything without "
            f"labels; {MIN_IMAGES} are needed."
        )
        return LabelFreeEstimates(lead, (), "", "", ())
    return LabelFreeEstimates(
        lead=_format_lead(len(images), copies=len(images) < manifest.scored),
        rows=_make_rows(images, card),
        reference_set=f"the {card.reference.images:,} {format_split(card)}",
        prevalence=_describe_prevalence(images, card),
        limits=_list_limits(card, view.drift, synthetic=manifest.synthetic),
    )


def _format_lead(images: int, *, copies: bool) -> str:
    once = ", copies counted once" if copies else ""
    return (
        "An estimate, not a measurement. It adds up the model's own probabilities of "
        f"{format_count(images, 'film')}{once}; it is right only if these are right for films "
        "like these, which this run cannot check."
    )


def _make_rows(images: Sequence[Score], card: ModelCard) -> tuple[ExpectedCountRow, ...]:
    pneumonia = [row.probability for row in images]
    wrong = [1 - row.probability for row in images if row.prediction == CLASSES[1]]
    missed = [row.probability for row in images if row.prediction != CLASSES[1]]
    confusion = card.reference.confusion
    sums = _compute_reference_sums(card.reference, card.threshold.value)
    return (
        _make_row("Films with pneumonia", pneumonia, sums[0], card.reference.pneumonia),
        _make_row("Flagged wrongly", wrong, sums[1], confusion.false_positive),
        _make_row("Missed: not flagged, with pneumonia", missed, sums[2], confusion.false_negative),
    )


def _make_row(
    quantity: str, probabilities: Sequence[float], reference_estimate: float, true_count: int
) -> ExpectedCountRow:
    estimate = expected_count(probabilities)
    return ExpectedCountRow(
        quantity=quantity,
        number=_format_number(estimate.value or 0.0),
        interval=format_integer_interval(estimate.low or 0.0, estimate.high or 0.0),
        images=f"n = {estimate.n:,}",
        reference_estimate=f"about {reference_estimate:,.0f}",
        true_count=f"{true_count:,}",
    )


def _compute_reference_sums(reference: Evaluation, threshold: float) -> tuple[float, float, float]:
    """Compute expected pneumonia, false alarms and misses of the reference set by its quantiles."""
    levels = np.linspace(0, 1, len(reference.score_quantiles))
    p = np.interp(np.linspace(0, 1, N_QUANTILES), levels, reference.score_quantiles)
    flagged = p >= threshold
    sums = (p, np.where(flagged, 1 - p, 0), np.where(flagged, 0, p))
    pneumonia, wrong, missed = (reference.images * float(values.mean()) for values in sums)
    return pneumonia, wrong, missed


def _describe_prevalence(images: Sequence[Score], card: ModelCard) -> str:
    flagged = sum(row.prediction == CLASSES[1] for row in images)
    values = card.reference.metrics
    found = adjusted_prevalence(flagged, len(images), values["recall"], values["specificity"])
    if found.value is None:
        return (
            f"How many of 100 films show pneumonia cannot be estimated from {flagged:,} flagged: "
            f"the {format_split(card)} do not define how often the model is wrong."
        )
    return (
        f"Estimated from the flags instead: {flagged:,} of {format_count(len(images), 'film')} "
        f"{'is' if flagged == 1 else 'are'} flagged. With the sensitivity "
        f"{format_value(values['recall'])} and specificity {format_value(values['specificity'])} "
        f"of the {format_split(card)}, that means pneumonia in {format_per_hundred(found)} of 100 "
        f"films{_describe_agreement(found, images)}"
    )


def _describe_agreement(found: Estimate, images: Sequence[Score]) -> str:
    """Say whether the two estimates of the prevalence agree."""
    mean_probability = sum(row.probability for row in images) / len(images)
    text = f". The probabilities alone mean {100 * mean_probability:.0f} of 100"
    if found.low is None or found.high is None or found.low <= mean_probability <= found.high:
        return f"{text}, within that interval."
    return (
        f"{text}, outside that interval: the two ways rest on different assumptions, and at least "
        "one of these does not hold here."
    )


def _list_limits(card: ModelCard, drift: Drift, *, synthetic: bool) -> tuple[str, ...]:
    limits = []
    if synthetic:
        limits.append("These films are synthetic, so the estimates say nothing about patients.")
    if drift.level == DriftLevel.LARGE:
        limits.append(
            "This batch looks unlike the films that the model learned from (section 5): do not "
            "use these estimates."
        )
    validation = card.references["validation"]
    limits.append(
        f"The probabilities of {format_title(card)} were calibrated on one set of films "
        f"({sanitize_text(card.calibration.fitted_on, 80)}): on {validation.images:,} validation "
        f"films they are off by {format_value(validation.metrics['ece'])} on average (ECE)."
    )
    if card.reference is not validation:
        limits.append(
            f"On the {card.reference.images:,} {format_split(card)} they are already off by "
            f"{format_value(card.reference.metrics['ece'])}: calibration breaks where films or "
            "patients change. The last two columns show what that did to the same sums there."
        )
    limits.append(
        "The intervals hold chance alone. That the probabilities, or sensitivity and specificity, "
        "are other ones here can move the numbers far outside of them. Several films of one "
        "patient are counted as if they were of several."
    )
    return tuple(limits)


def _format_number(value: float) -> str:
    """Format a count, with one decimal below ``INTEGERS_FROM``."""
    return f"{value:.1f}" if value < INTEGERS_FROM else f"{value:,.0f}"
