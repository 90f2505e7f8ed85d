"""Worklist of the images to review first, and the reasons. Pure functions of the rows."""

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
"""Time of a first look at one image, to derive the number of images from the minutes."""
MAX_CLOSE_LOG_ODDS = 0.5
"""Largest distance from the threshold, in log odds, of a probability that is close to it."""


def count_reviewable(minutes: int) -> int:
    """Return the number of images that a reader can review in some minutes."""
    return minutes * 60 // SECONDS_PER_IMAGE


def select_for_review(
    rows: Sequence[Score], threshold: float, minutes: int | None = None
) -> dict[str, list[Score]]:
    """Select the images to review, each image once and without copies.

    Args:
        rows: All rows of a run.
        threshold: The first model's threshold.
        minutes: The reader's time. The images that it allows are shared evenly among the reasons; a
            reason with too few images leaves its share to the others. None takes
            ``IMAGES_PER_REASON`` for each reason.

    Returns:
        The selected rows by reason, in reading order, without empty reasons.
    """
    candidates = rank_candidates(rows, threshold)
    chosen: dict[str, list[Score]] = {reason: [] for reason in candidates}
    selected: set[str] = set()

    def take(reason: str, share: int) -> None:
        unselected = (row for row in candidates[reason] if row.image not in selected)
        picked = list(islice(unselected, share))
        chosen[reason] += picked
        selected.update(row.image for row in picked)

    if minutes is None:
        for reason in candidates:
            take(reason, IMAGES_PER_REASON)
    else:
        limit = count_reviewable(minutes)
        while len(selected) < limit and (
            remaining := _reasons_with_unselected(candidates, selected)
        ):
            for index, reason in enumerate(remaining):
                take(reason, math.ceil((limit - len(selected)) / (len(remaining) - index)))
    return {reason: found for reason, found in chosen.items() if found}


def rank_candidates(rows: Sequence[Score], threshold: float) -> dict[str, list[Score]]:
    """Rank the images to review by reason, without copies; an image may have several reasons.

    Returns:
        The rows by reason, most urgent first: "missed" and "false_alarm" (labelled images),
        "highest" probability, "closest" to the threshold (the undecided ones, if the model's card
        has a band), "disagree" between models.
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
        reason: sorted(found, key=lambda row: (sort_key(row), row.image))
        for reason, (found, sort_key) in groups.items()
    }


def _reasons_with_unselected(candidates: dict[str, list[Score]], selected: set[str]) -> list[str]:
    """Return the reasons with an image that is not selected yet."""
    return [r for r, rows in candidates.items() if any(row.image not in selected for row in rows)]


def _is_close(row: Score, threshold: float) -> bool:
    if row.undecided is not None:
        return row.undecided
    return _log_odds_distance(row.probability, threshold) <= MAX_CLOSE_LOG_ODDS


def _log_odds_distance(probability: float, threshold: float) -> float:
    """Return the distance of two probabilities in log odds."""
    return abs(_log_odds(probability) - _log_odds(threshold))


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))
