"""What can be said of a batch without labels: estimates, what they rest on, how they fare. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.metrics.prevalence import adjusted_prevalence, expected_count
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import split_name
from batch_scorer.report.content.text import count, of_hundred, outwards, show_name, show_value
from batch_scorer.results.drift import MIN_IMAGES, DriftLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evaluation
    from batch_scorer.results.drift import Drift
    from batch_scorer.results.schema import RunManifest, Score

FEW = 10
STEPS = 2001


@dataclass(frozen=True)
class Expected:
    """One expected number of this batch; the same sum on the reference films; the truth there."""

    what: str
    number: str
    interval: str
    images: str
    checked: str
    truth: str


@dataclass(frozen=True)
class LabelFree:
    """Estimates of a batch without labels; only ``lead`` where there are too few films."""

    lead: str
    rows: tuple[Expected, ...]
    checked_on: str
    prevalence: str
    limits: tuple[str, ...]


def describe_label_free(
    manifest: RunManifest, rows: Sequence[Score], drift: Drift
) -> LabelFree | None:
    """What may be expected of the films of a batch; None where labels tell, or nothing was scored.

    Args:
        manifest: The run.
        rows: One per file; copies are counted once.
        drift: How much the batch looks like the films the model knows.
    """
    films = [row for row in rows if row.status == "scored" and not row.duplicate_of]
    if manifest.metrics or not films:
        return None
    if len(films) < MIN_IMAGES:
        verb = "is" if len(films) == 1 else "are"
        lead = (
            f"{count(len(films), 'film')} {verb} too few to estimate anything without labels; "
            f"{MIN_IMAGES} are needed."
        )
        return LabelFree(lead, (), "", "", ())
    card = manifest.models[0].card
    return LabelFree(
        lead=_lead(len(films), copies=len(films) < manifest.scored),
        rows=_rows(films, card),
        checked_on=f"the {card.reference.images:,} {split_name(card)}",
        prevalence=_prevalence(films, card),
        limits=_limits(card, drift, synthetic=manifest.synthetic),
    )


def _lead(films: int, *, copies: bool) -> str:
    once = ", copies counted once" if copies else ""
    return (
        f"An estimate, not a measurement. It adds up the model's own probabilities of "
        f"{count(films, 'film')}{once}; it is right only if these are right for films like these, "
        "which this run cannot check."
    )


def _rows(films: Sequence[Score], card: ModelCard) -> tuple[Expected, ...]:
    ill = [row.probability for row in films]
    wrong = [1 - row.probability for row in films if row.prediction == CLASSES[1]]
    missed = [row.probability for row in films if row.prediction != CLASSES[1]]
    found = card.reference.confusion
    checked = _same_sums(card.reference, card.threshold.value)
    return (
        _expected("Films with pneumonia", ill, checked[0], card.reference.pneumonia),
        _expected("Flagged wrongly", wrong, checked[1], found.false_positive),
        _expected("Missed: not flagged, with pneumonia", missed, checked[2], found.false_negative),
    )


def _expected(what: str, chances: Sequence[float], checked: float, truth: int) -> Expected:
    estimate = expected_count(chances)
    return Expected(
        what=what,
        number=_number(estimate.value or 0.0),
        interval=outwards(estimate.low or 0.0, estimate.high or 0.0),
        images=f"n = {estimate.n:,}",
        checked=f"about {checked:,.0f}",
        truth=f"{truth:,}",
    )


def _same_sums(reference: Evaluation, threshold: float) -> tuple[float, float, float]:
    """Expected pneumonia, wrong flags and misses of the reference films, from their quantiles."""
    levels = np.linspace(0, 1, len(reference.score_quantiles))
    p = np.interp(np.linspace(0, 1, STEPS), levels, reference.score_quantiles)
    flagged = p >= threshold
    sums = (p, np.where(flagged, 1 - p, 0), np.where(flagged, 0, p))
    ill, wrong, missed = (reference.images * float(values.mean()) for values in sums)
    return ill, wrong, missed


def _prevalence(films: Sequence[Score], card: ModelCard) -> str:
    flagged = sum(row.prediction == CLASSES[1] for row in films)
    values = card.reference.metrics
    found = adjusted_prevalence(flagged, len(films), values["recall"], values["specificity"])
    if found.value is None:
        return (
            f"How many of 100 films show pneumonia cannot be estimated from {flagged:,} flagged: "
            f"the {split_name(card)} do not define how often the model is wrong."
        )
    return (
        f"Estimated from the flags instead: {flagged:,} of {count(len(films), 'film')} "
        f"{'is' if flagged == 1 else 'are'} flagged. With the sensitivity "
        f"{show_value(values['recall'])} and specificity {show_value(values['specificity'])} of "
        f"the {split_name(card)}, that means pneumonia in {of_hundred(found)} of 100 films"
        f"{_compared(found, films)}"
    )


def _compared(found: Estimate, films: Sequence[Score]) -> str:
    """Whether the two ways to estimate the prevalence agree."""
    own = sum(row.probability for row in films) / len(films)
    text = f". The probabilities alone mean {100 * own:.0f} of 100"
    if found.low is None or found.high is None or found.low <= own <= found.high:
        return f"{text}, within that interval."
    return (
        f"{text}, outside that interval: the two ways rest on different assumptions, and at least "
        "one of these does not hold here."
    )


def _limits(card: ModelCard, drift: Drift, *, synthetic: bool) -> tuple[str, ...]:
    limits = []
    if synthetic:
        limits.append("These films are synthetic, so the estimates say nothing about patients.")
    if drift.likeness == DriftLevel.UNLIKE:
        limits.append(
            "This batch looks unlike the films that the model learned from (section 5): do not "
            "use these estimates."
        )
    validation = card.references["validation"]
    limits.append(
        f"The probabilities of {show_name(card.title, 60)} were calibrated on one set of films "
        f"({show_name(card.calibration.fitted_on, 80)}): on {validation.images:,} validation films "
        f"they are off by {show_value(validation.metrics['ece'])} on average (ECE)."
    )
    if card.reference is not validation:
        limits.append(
            f"On the {card.reference.images:,} {split_name(card)} they are already off by "
            f"{show_value(card.reference.metrics['ece'])}: calibration breaks where films or "
            "patients change. The last two columns show what that did to the same sums there."
        )
    limits.append(
        "The intervals hold chance alone. That the probabilities, or sensitivity and specificity, "
        "are other ones here can move the numbers far outside of them. Several films of one "
        "patient are counted as if they were of several."
    )
    return tuple(limits)


def _number(value: float) -> str:
    """One decimal below ten, where it matters."""
    return f"{value:.1f}" if value < FEW else f"{value:,.0f}"
