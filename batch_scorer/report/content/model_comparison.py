"""The models against each other, as a table and one plain sentence. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.report.content.text import count, join_words, show_interval, show_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ModelComparison, PairedDifference
    from batch_scorer.results.schema import RunManifest

DECIDING = "auc"
SIGNIFICANT = 0.05
_BE = {1: "is", 2: "are both"}
METRICS = {"auc": "AUC", "accuracy": "Accuracy"}


@dataclass(frozen=True)
class PairRow:
    """One difference as text; ``p`` is the corrected one."""

    models: str
    metric: str
    difference: str
    interval: str
    p: str
    real: str


@dataclass(frozen=True)
class ComparisonFacts:
    """The models of this run against each other."""

    sentence: str
    about: str
    rows: tuple[PairRow, ...]


def describe_comparison(manifest: RunManifest) -> ComparisonFacts | None:
    """The comparison that this run's model files have in common, or None where they have none."""
    cards = [model.card for model in manifest.models]
    found = find_shared_comparison(cards)
    if found is None:
        return None
    titles = {card.name: show_name(card.title, 60) for card in cards}
    return ComparisonFacts(
        sentence=say_comparison(found, titles),
        about=f"Each row is the first model minus the second on the same {found.images:,} "
        f"{show_name(found.split, 40)} films, by {show_name(found.method, 300)}. A difference is "
        f"taken as real where the corrected p is below {SIGNIFICANT}.",
        rows=tuple(_row(pair, titles) for pair in found.pairs),
    )


def say_comparison(comparison: ModelComparison, titles: Mapping[str, str] | None = None) -> str:
    """Which models are better than which, by AUC, in one sentence.

    Args:
        comparison: Of at least two models.
        titles: What to call a model; its name unless given.
    """
    names = titles or {name: show_name(name, 40) for name in comparison.names}
    pairs = [pair for pair in comparison.pairs if pair.metric == DECIDING]
    ties = [_ordered(pair) for pair in pairs if pair.p_holm >= SIGNIFICANT]
    winners: dict[str, list[str]] = {}
    for better, worse in (_ordered(pair) for pair in pairs if pair.p_holm < SIGNIFICANT):
        winners.setdefault(worse, []).append(names[better])
    parts = []
    if ties and not winners:
        members = dict.fromkeys(name for pair in ties for name in pair)
        parts.append(f"{join_words([names[name] for name in members])} cannot be told apart")
    else:
        parts += [f"{names[one]} and {names[two]} cannot be told apart" for one, two in ties]
    parts += [
        f"{join_words(found)} {_BE.get(len(found), 'are all')} better than {names[worse]}"
        for worse, found in winners.items()
    ]
    films = f"On {count(comparison.images, f'{show_name(comparison.split, 40)} film')}, by AUC, "
    return f"{films}{'; '.join(parts)}."


def tied_with(name: str, cards: Sequence[ModelCard]) -> list[str]:
    """The titles of the models that cannot be told apart from one, by AUC, where that was asked."""
    found = find_shared_comparison(cards)
    pairs = [pair for pair in found.pairs if pair.metric == DECIDING] if found else []
    tied = {
        one
        for pair in pairs
        if pair.p_holm >= SIGNIFICANT and name in (pair.first, pair.second)
        for one in (pair.first, pair.second)
    }
    return [show_name(card.title, 60) for card in cards if card.name in tied - {name}]


def _ordered(pair: PairedDifference) -> tuple[str, str]:
    """The better one first."""
    worse = (pair.difference.value or 0.0) < 0
    return (pair.second, pair.first) if worse else (pair.first, pair.second)


def _row(pair: PairedDifference, titles: Mapping[str, str]) -> PairRow:
    value = pair.difference.value or 0.0
    return PairRow(
        models=f"{titles[pair.first]} minus {titles[pair.second]}",
        metric=METRICS.get(pair.metric, show_name(pair.metric, 40)),
        difference=f"{value:+.3f}".replace("-", "−"),
        interval=show_interval(pair.difference).replace("-", "−"),
        p="under 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}",  # noqa: PLR2004 - as is usual
        real="yes" if pair.p_holm < SIGNIFICANT else "not shown",
    )
