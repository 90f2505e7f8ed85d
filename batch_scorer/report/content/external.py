"""Films from elsewhere, and the second question: what else a card says. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.report.content.text import (
    format_count,
    format_interval,
    format_per_hundred,
    format_value,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ExternalDataset


def describe_external(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """One sentence for each model and each set of films that its card knows."""
    return tuple(
        describe_external_dataset(found, f"the model {sanitize_text(card.title, 60)}")
        for card in cards
        for found in card.external
    )


def describe_external_dataset(found: ExternalDataset, model: str) -> str:
    """How many normal films of one other place a model wrongly flags."""
    rejects = f"rejects {found.rejected:,} as too unlike and " if found.rejected else ""
    return (
        f"Of {format_count(found.images, 'normal film')} of “{sanitize_text(found.name, 60)}” {model} {rejects}"
        f"wrongly flags {found.flagged:,}; of 100 that is {format_per_hundred(found.share)}. "
        f"{sanitize_text(found.note, 200)}"
    )


def describe_etiology(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """How well each model that was asked tells viral from bacterial pneumonia."""
    return tuple(
        f"{sanitize_text(card.title, 60)}: {sentence}"
        for card in cards
        if (sentence := describe_model_etiology(card))
    )


def describe_model_etiology(card: ModelCard) -> str:
    """How good the second answer of one model is; empty where it has none."""
    if card.etiology is None:
        return ""
    split = "test" if "test" in card.etiology.references else "validation"
    found = card.etiology.references[split]
    return (
        f"of 100 {split} films with pneumonia whose cause is known it names the cause rightly for "
        f"{format_per_hundred(found['accuracy'])}; AUC {format_value(found['auc'])} "
        f"({format_interval(found['auc'])}). Column “viral” of predictions.csv has its answers; they "
        "are no ground for any treatment."
    )
