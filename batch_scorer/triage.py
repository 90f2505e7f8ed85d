"""Which films a reader should look at first, and why. Pure functions of the rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batch_scorer.card import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch_scorer.records import Score

GROUP_SIZE = 6
CLOSE = 0.5
"""How far from the threshold, in log odds, an answer may lie and still be called close to it."""


def first_look(rows: Sequence[Score], threshold: float) -> dict[str, list[Score]]:
    """Up to ``GROUP_SIZE`` films for each reason to look, each film once, copies left out.

    Returns:
        By reason, in reading order: "missed" and "false_alarm" (where films have labels),
        "highest" probability, "closest" to the threshold (the uncertain ones, where the model's
        card says which answers are), "disagree" between models.
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
            lambda row: _distance(row.probability, threshold),
        ),
        "disagree": (
            [r for r in originals if r.agreement is not None and r.agreement < 1],
            lambda row: row.agreement or 0.0,
        ),
    }
    shown: set[str] = set()
    chosen = {}
    for reason, (candidates, order) in groups.items():
        fresh = [row for row in candidates if row.image not in shown]
        picked = sorted(fresh, key=lambda row: (order(row), row.image))[:GROUP_SIZE]
        shown.update(row.image for row in picked)
        if picked:
            chosen[reason] = picked
    return chosen


def _is_close(row: Score, threshold: float) -> bool:
    if row.uncertain is not None:
        return row.uncertain
    return _distance(row.probability, threshold) <= CLOSE


def _distance(probability: float, threshold: float) -> float:
    """How far apart two probabilities are in log odds."""
    return abs(_log_odds(probability) - _log_odds(threshold))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))
