"""What a flag means in a clinic: predictive values by prevalence. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.metrics.prevalence import predictive_values
from batch_scorer.report.content.accuracy import MetricCell, format_split
from batch_scorer.report.content.methods import format_population
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    format_per_hundred,
    format_share,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest

PREVALENCES = (0.05, 0.10, 0.25, 0.60)


@dataclass(frozen=True)
class PrevalenceRow:
    """One row: where ``ill_per_100`` of 100 patients have pneumonia.

    ``flagged`` is of 1,000 patients, ``ppv`` those with pneumonia of 100 flagged, ``missed``
    those with pneumonia of 1,000 not flagged. ``ppv_text`` is ``ppv`` in one line, and
    ``ill_per_100_flagged`` its number.
    """

    ill_per_100: int
    flagged: str
    ppv: MetricCell
    missed: MetricCell
    ppv_text: str
    ill_per_100_flagged: int


@dataclass(frozen=True)
class PredictiveValueTable:
    """Predictive values from one set of films. ``rows`` is empty where these do not define them."""

    name: str
    title: str
    about: str
    rows: tuple[PrevalenceRow, ...]
    missing: str
    figure_title: str
    alt: str


@dataclass(frozen=True)
class PredictiveValues:
    """What a flag means: in sentences, and by each set of films that tells of the model."""

    sentences: tuple[str, ...]
    tables: tuple[PredictiveValueTable, ...]


def describe_predictive_values(manifest: RunManifest) -> PredictiveValues:
    """What a flag of the first model means where pneumonia is rarer or more common."""
    card = manifest.models[0].card
    reference = card.reference
    meanings = [
        _make_table(
            "reference", f"By the {format_split(card)}", reference.metrics, format_population(card)
        )
    ]
    own = manifest.metrics[0] if manifest.metrics else None
    if own and not manifest.synthetic and 0 < own.pneumonia < own.images:
        title = "By the labelled films of this batch"
        meanings.append(_make_table("batch", title, own.metrics, "patients"))
    return PredictiveValues(
        (*_describe_example(card, meanings[0]), _describe_caution(card)), tuple(meanings)
    )


def _make_table(
    name: str, title: str, metrics: Mapping[str, Estimate], people: str
) -> PredictiveValueTable:
    recall, specificity = metrics["recall"], metrics["specificity"]
    rows = tuple(
        row
        for prevalence in PREVALENCES
        if (row := _make_row(prevalence, recall, specificity)) is not None
    )
    return PredictiveValueTable(
        name=name,
        title=title,
        about=f"From sensitivity {format_estimate(recall)} and specificity "
        f"{format_estimate(specificity)}.",
        rows=rows,
        missing=""
        if rows
        else "Not defined: it needs films with pneumonia and normal films, some of them flagged.",
        figure_title=f"100 flagged {people}: filled have pneumonia, hollow were flagged wrongly",
        alt=_describe_figure(rows, people),
    )


def _make_row(prevalence: float, recall: Estimate, specificity: Estimate) -> PrevalenceRow | None:
    right, clear = predictive_values(recall, specificity, prevalence)
    if right.value is None or clear.value is None:
        return None
    sensitivity, alarms = recall.value or 0.0, 1 - (specificity.value or 0.0)
    flagged = prevalence * sensitivity + (1 - prevalence) * alarms
    return PrevalenceRow(
        ill_per_100=round(100 * prevalence),
        flagged=f"{1000 * flagged:,.0f}",
        ppv=_make_cell(right, 100),
        missed=_make_cell(clear, 1000, inverse=True),
        ppv_text=format_per_hundred(right),
        ill_per_100_flagged=round(100 * right.value),
    )


def _make_cell(estimate: Estimate, of: int, *, inverse: bool = False) -> MetricCell:
    value, interval = format_share(estimate, of, inverse=inverse) or ("", "")
    return MetricCell(value, interval, f"n = {estimate.n:,}")


def _describe_example(card: ModelCard, meaning: PredictiveValueTable) -> tuple[str, ...]:
    if not meaning.rows:
        return (
            f"The {format_split(card)} do not define what a flag of this model means: "
            "a class is missing among them.",
        )
    few, many = meaning.rows[0], meaning.rows[-1]
    wrong = 100 - few.ill_per_100_flagged
    return (
        f"The same flag means less where pneumonia is rare. Where {few.ill_per_100} of 100 patients have "
        f"it, {few.ppv_text} of 100 flagged have it and {wrong} were flagged wrongly; where "
        f"{many.ill_per_100} of 100 have it, {many.ppv_text} do.",
    )


def _describe_caution(card: ModelCard) -> str:
    reference = card.reference
    share = f"{reference.pneumonia:,} of {format_count(reference.images, 'film')}"
    return (
        f"Of the {format_split(card)} {share} show pneumonia, so the precision of section 3 is that "
        f"of such a mix; here, look for the line of your own patients. The table takes for granted "
        f"that {sanitize_text(card.title, 60)} has the same sensitivity and specificity on your films, "
        "which is not known before it was measured on them."
    )


def _describe_figure(rows: tuple[PrevalenceRow, ...], people: str) -> str:
    parts = [
        f"{row.ill_per_100_flagged} where {row.ill_per_100} of 100 {people} have it" for row in rows
    ]
    return (
        f"Of 100 flagged {people}, with pneumonia: {'; '.join(parts)}. The others were flagged "
        "wrongly."
    )
