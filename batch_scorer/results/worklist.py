"""Which films a reader should look at first, and why. Pure functions of the rows."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch_scorer.results.schema import Score

IMAGES_PER_REASON = 6
SECONDS_PER_IMAGE = 45
"""What a first look at one film takes, when the number of films is chosen by the minutes for it."""
MAX_CLOSE_LOG_ODDS = 0.5
"""How far from the threshold, in log odds, an answer may lie and still be called close to it."""


def count_reviewable(minutes: int) -> int:
    """How many films can be looked at in so many minutes."""
    return minutes * 60 // SECONDS_PER_IMAGE


def select_for_review(
    rows: Sequence[Score], threshold: float, minutes: int | None = None
) -> dict[str, list[Score]]:
    """The films to show, by reason in reading order, each film once, copies left out.

    Args:
        rows: All rows of a run.
        threshold: The first model's.
        minutes: The time for reading: as many films as it allows, shared evenly among the reasons;
            what one reason leaves over goes to the others. None takes ``IMAGES_PER_REASON`` for each.

    Returns:
        The reasons of ``rank_candidates`` that have a film to show.
    """
    waiting = rank_candidates(rows, threshold)
    chosen: dict[str, list[Score]] = {reason: [] for reason in waiting}
    shown: set[str] = set()

    def take(reason: str, share: int) -> None:
        fresh = (row for row in waiting[reason] if row.image not in shown)
        picked = list(islice(fresh, share))
        chosen[reason] += picked
        shown.update(row.image for row in picked)

    if minutes is None:
        for reason in waiting:
            take(reason, IMAGES_PER_REASON)
    else:
        films = count_reviewable(minutes)
        while len(shown) < films and (open_ := _reasons_with_unselected(waiting, shown)):
            for place, reason in enumerate(open_):
                take(reason, math.ceil((films - len(shown)) / (len(open_) - place)))
    return {reason: found for reason, found in chosen.items() if found}


def rank_candidates(rows: Sequence[Score], threshold: float) -> dict[str, list[Score]]:
    """Every film that there is a reason to look at, copies left out; a film may have several.

    Returns:
        By reason, in reading order, the first to look at first: "missed" and "false_alarm" (where
        films have labels), "highest" probability, "closest" to the threshold (the uncertain ones,
        where the model's card says which answers are), "disagree" between models.
    """
    originals = [row for row in rows if row.status == "scored" and not row.duplicate_of]
    normal, pneumonia = CLASSES
    flagged = [row for row in originals if row.prediction == pneumonia]
    groups: dict[str, tuple[list[Score], Callable[[Score], float]]] = {
        "missed": (
            [r for r in originals if r.label == pneumonia and r.prediction == normal],
            lambda row: row.probability,
        ),
        "false_alarm": ([r for r in flagged if r.label == normal], lambda row: -row.probability),
        "highest": (flagged, lambda row: -row.probability),
        "closest": (
            [row for row in originals if _is_close(row, threshold)],
            lambda row: _log_odds_distance(row.probability, threshold),
        ),
        "disagree": (
            [r for r in originals if r.agreement is not None and r.agreement < 1],
            lambda row: row.agreement or 0.0,
        ),
    }
    return {
        reason: sorted(found, key=lambda row: (order(row), row.image))
        for reason, (found, order) in groups.items()
    }


def _reasons_with_unselected(waiting: dict[str, list[Score]], shown: set[str]) -> list[str]:
    """The reasons that have a film which is not shown yet."""
    return [r for r, line in waiting.items() if any(row.image not in shown for row in line)]


def _is_close(row: Score, threshold: float) -> bool:
    if row.undecided is not None:
        return row.undecided
    return _log_odds_distance(row.probability, threshold) <= MAX_CLOSE_LOG_ODDS


def _log_odds_distance(probability: float, threshold: float) -> float:
    """How far apart two probabilities are in log odds."""
    return abs(_log_odds(probability) - _log_odds(threshold))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))
