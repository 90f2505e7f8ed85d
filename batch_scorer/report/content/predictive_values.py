"""Predictive values of a flag by prevalence. Pure functions."""

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
    format_title,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.view import RunView

PREVALENCES = (0.05, 0.10, 0.25, 0.60)


@dataclass(frozen=True)
class PrevalenceRow:
    """One row of the table: predictive values where ``ill_per_100`` of 100 patients have pneumonia.

    ``flagged`` counts 1,000 patients. ``ppv`` counts those with pneumonia among 100 flagged ones;
    ``ppv_text`` is the same on one line, ``ill_per_100_flagged`` its number.
    ``ill_per_1000_not_flagged`` counts those with pneumonia among 1,000 patients not flagged.
    """

    ill_per_100: int
    flagged: str
    ppv: MetricCell
    ill_per_1000_not_flagged: MetricCell
    ppv_text: str
    ill_per_100_flagged: int


@dataclass(frozen=True)
class PredictiveValueTable:
    """Predictive values from one set of images. ``rows`` is empty where it does not define them."""

    name: str
    title: str
    about: str
    rows: tuple[PrevalenceRow, ...]
    missing_reason: str
    figure_title: str
    alt: str


@dataclass(frozen=True)
class PredictiveValues:
    """Part 4 of the report: sentences, and one table for each set of labelled images."""

    sentences: tuple[str, ...]
    tables: tuple[PredictiveValueTable, ...]


def describe_predictive_values(view: RunView) -> PredictiveValues:
    """Describe the first model's predictive values at lower and higher prevalence."""
    manifest, card = view.manifest, view.card
    tables = [
        _make_table(
            "reference",
            f"By the {format_split(card)}",
            card.reference.metrics,
            format_population(card),
        )
    ]
    batch = manifest.metrics[0] if manifest.metrics else None
    if batch and not manifest.synthetic and 0 < batch.pneumonia < batch.images:
        title = "By the labelled films of this batch"
        tables.append(_make_table("batch", title, batch.metrics, "patients"))
    return PredictiveValues(
        (*_describe_example(card, tables[0]), _describe_caution(card)), tuple(tables)
    )


def _make_table(
    name: str, title: str, metrics: Mapping[str, Estimate], population: str
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
        missing_reason=""
        if rows
        else "Not defined: it needs films with pneumonia and normal films, some of them flagged.",
        figure_title=f"100 flagged {population}: filled have pneumonia, "
        "hollow were flagged wrongly",
        alt=_describe_figure(rows, population),
    )


def _make_row(prevalence: float, recall: Estimate, specificity: Estimate) -> PrevalenceRow | None:
    ppv, npv = predictive_values(recall, specificity, prevalence)
    if ppv.value is None or npv.value is None:
        return None
    sensitivity, false_alarms = recall.value or 0.0, 1 - (specificity.value or 0.0)
    flagged = prevalence * sensitivity + (1 - prevalence) * false_alarms
    return PrevalenceRow(
        ill_per_100=round(100 * prevalence),
        flagged=f"{1000 * flagged:,.0f}",
        ppv=_make_cell(ppv, 100),
        ill_per_1000_not_flagged=_make_cell(npv, 1000, inverse=True),
        ppv_text=format_per_hundred(ppv),
        ill_per_100_flagged=round(100 * ppv.value),
    )


def _make_cell(estimate: Estimate, total: int, *, inverse: bool = False) -> MetricCell:
    value, interval = format_share(estimate, total, inverse=inverse) or ("", "")
    return MetricCell(value, interval, f"n = {estimate.n:,}")


def _describe_example(card: ModelCard, table: PredictiveValueTable) -> tuple[str, ...]:
    if not table.rows:
        return (
            f"The {format_split(card)} do not define what a flag of this model means: "
            "a class is missing among them.",
        )
    rarest, most_common = table.rows[0], table.rows[-1]
    wrong = 100 - rarest.ill_per_100_flagged
    return (
        f"The same flag means less where pneumonia is rare. Where {rarest.ill_per_100} of 100 "
        f"patients have it, {rarest.ppv_text} of 100 flagged have it and {wrong} were flagged "
        f"wrongly; where {most_common.ill_per_100} of 100 have it, {most_common.ppv_text} do.",
    )


def _describe_caution(card: ModelCard) -> str:
    reference = card.reference
    share = f"{reference.pneumonia:,} of {format_count(reference.images, 'film')}"
    return (
        f"Of the {format_split(card)} {share} show pneumonia, so the precision of section 3 is "
        "that of such a mix; here, look for the line of your own patients. The table takes for "
        f"granted that {format_title(card)} has the same sensitivity and specificity on your "
        "films, which is not known before it was measured on them."
    )


def _describe_figure(rows: tuple[PrevalenceRow, ...], population: str) -> str:
    parts = [
        f"{row.ill_per_100_flagged} where {row.ill_per_100} of 100 {population} have it"
        for row in rows
    ]
    return (
        f"Of 100 flagged {population}, with pneumonia: {'; '.join(parts)}. The others were flagged "
        "wrongly."
    )
