"""External data sets and the etiology output, as model cards report them. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.report.content.text import (
    format_count,
    format_interval,
    format_per_hundred,
    format_title,
    format_value,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ExternalDataset


def describe_external(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """Describe each model's false alarms on each external data set of its card."""
    return tuple(
        describe_external_dataset(dataset, f"the model {format_title(card)}")
        for card in cards
        for dataset in card.external
    )


def describe_external_dataset(dataset: ExternalDataset, model: str) -> str:
    """Say how many normal images of one external data set a model wrongly flags."""
    rejects = f"rejects {dataset.rejected:,} as too unlike and " if dataset.rejected else ""
    return (
        f"Of {format_count(dataset.images, 'normal film')} of “{sanitize_text(dataset.name, 60)}” "
        f"{model} {rejects}wrongly flags {dataset.flagged:,}; of 100 that is "
        f"{format_per_hundred(dataset.share)}. {sanitize_text(dataset.note, 200)}"
    )


def describe_etiology(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """Say how well each model with an etiology output separates viral from bacterial pneumonia."""
    return tuple(
        f"{format_title(card)}: {sentence}"
        for card in cards
        if (sentence := describe_model_etiology(card))
    )


def describe_model_etiology(card: ModelCard) -> str:
    """Say how good one model's etiology output is; empty where it has none."""
    if card.etiology is None:
        return ""
    split = "test" if "test" in card.etiology.references else "validation"
    metrics = card.etiology.references[split]
    return (
        f"of 100 {split} films with pneumonia whose cause is known it names the cause rightly for "
        f"{format_per_hundred(metrics['accuracy'])}; AUC {format_value(metrics['auc'])} "
        f"({format_interval(metrics['auc'])}). Column “viral” of predictions.csv has its answers; "
        "they are no ground for any treatment."
    )
