"""Normal films from elsewhere: how many of them each model wrongly flags. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.report.wording import count, of_hundred, show_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.card import ExternalSet, ModelCard


def describe_elsewhere(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """One sentence for each model and each set of films that its card knows."""
    return tuple(
        say_elsewhere(found, f"the model {show_name(card.title, 60)}")
        for card in cards
        for found in card.external
    )


def say_elsewhere(found: ExternalSet, model: str) -> str:
    """How many normal films of one other place a model wrongly flags."""
    return (
        f"Of {count(found.films, 'normal film')} of “{show_name(found.name, 60)}” {model} wrongly "
        f"flags {found.flagged:,}; of 100 that is {of_hundred(found.share)}. "
        f"{show_name(found.note, 200)}"
    )
