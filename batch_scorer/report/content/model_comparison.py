"""The comparison of the models, as a table and one plain sentence. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.report.content.text import (
    format_count,
    format_interval,
    format_title,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ModelComparison, PairedDifference

MAIN_METRIC = "auc"
SIGNIFICANCE_LEVEL = 0.05
_VERBS = {1: "is", 2: "are both"}
COMPARED_METRIC_TITLES = {"auc": "AUC", "accuracy": "Accuracy"}


@dataclass(frozen=True)
class ComparisonRow:
    """One difference as text. ``p`` is corrected for multiple tests (Holm)."""

    models: str
    metric: str
    difference: str
    interval: str
    p: str
    significant: str


@dataclass(frozen=True)
class ComparisonFacts:
    """The pairwise comparison of a run's models."""

    sentence: str
    about: str
    rows: tuple[ComparisonRow, ...]


def describe_comparison(cards: Sequence[ModelCard]) -> ComparisonFacts | None:
    """Describe the comparison that all model cards share; None where they share none."""
    comparison = find_shared_comparison(cards)
    if comparison is None:
        return None
    titles = {card.name: format_title(card) for card in cards}
    return ComparisonFacts(
        sentence=describe_ranking(comparison, titles),
        about=f"Each row is the first model minus the second on the same {comparison.images:,} "
        f"{sanitize_text(comparison.split, 40)} films, by "
        f"{sanitize_text(comparison.method, 300)}. A difference is taken as real where the "
        f"corrected p is below {SIGNIFICANCE_LEVEL}.",
        rows=tuple(_make_row(pair, titles) for pair in comparison.pairs),
    )


def describe_ranking(
    comparison: ModelComparison, given_titles: Mapping[str, str] | None = None
) -> str:
    """Say in one sentence which models are better than which, by AUC.

    Args:
        comparison: Of at least two models.
        given_titles: Titles by model name; by default the names.
    """
    titles = given_titles or {name: sanitize_text(name, 40) for name in comparison.names}
    pairs = [pair for pair in comparison.pairs if pair.metric == MAIN_METRIC]
    ties = [_better_first(pair) for pair in pairs if pair.p_holm >= SIGNIFICANCE_LEVEL]
    winners: dict[str, list[str]] = {}
    for better, worse in (
        _better_first(pair) for pair in pairs if pair.p_holm < SIGNIFICANCE_LEVEL
    ):
        winners.setdefault(worse, []).append(titles[better])
    parts = []
    if ties and not winners:
        members = dict.fromkeys(name for pair in ties for name in pair)
        parts.append(f"{join_words([titles[name] for name in members])} cannot be told apart")
    else:
        parts += [f"{titles[one]} and {titles[two]} cannot be told apart" for one, two in ties]
    parts += [
        f"{join_words(better_titles)} {_VERBS.get(len(better_titles), 'are all')} better than "
        f"{titles[worse]}"
        for worse, better_titles in winners.items()
    ]
    images = format_count(comparison.images, f"{sanitize_text(comparison.split, 40)} film")
    return f"On {images}, by AUC, {'; '.join(parts)}."


def find_tied_models(name: str, cards: Sequence[ModelCard]) -> list[str]:
    """Return the titles of the models whose AUC does not differ significantly from one model's."""
    comparison = find_shared_comparison(cards)
    pairs = [pair for pair in comparison.pairs if pair.metric == MAIN_METRIC] if comparison else []
    tied = {
        one
        for pair in pairs
        if pair.p_holm >= SIGNIFICANCE_LEVEL and name in (pair.first, pair.second)
        for one in (pair.first, pair.second)
    }
    return [format_title(card) for card in cards if card.name in tied - {name}]


def _better_first(pair: PairedDifference) -> tuple[str, str]:
    """Return both names, the better model first."""
    worse = (pair.difference.value or 0.0) < 0
    return (pair.second, pair.first) if worse else (pair.first, pair.second)


def _make_row(pair: PairedDifference, titles: Mapping[str, str]) -> ComparisonRow:
    value = pair.difference.value or 0.0
    return ComparisonRow(
        models=f"{titles[pair.first]} minus {titles[pair.second]}",
        metric=COMPARED_METRIC_TITLES.get(pair.metric, sanitize_text(pair.metric, 40)),
        difference=f"{value:+.3f}".replace("-", "−"),
        interval=format_interval(pair.difference).replace("-", "−"),
        p="under 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}",  # noqa: PLR2004 - as is usual
        significant="yes" if pair.p_holm < SIGNIFICANCE_LEVEL else "not shown",
    )
