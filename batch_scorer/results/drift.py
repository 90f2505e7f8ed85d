"""How much a batch looks like the films that its model learned from.

Each statistic of the batch is set against the same of the training films by the largest gap
between their two distributions (Kolmogorov and Smirnov): 0 where they are alike, 1 where they share
nothing. Between two bell curves half a standard deviation apart the gap is 0.2, at 0.8 it is 0.3
(the medium and the large effect of Cohen 1988). A gap counts only where chance alone would not give
it.

What the films look like is judged apart from what the model answers: answers also move when other
patients are ill more or less often, without any film being strange.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.errors import NotRadiograph
from batch_scorer.metrics.classification import Estimate, proportion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import Score

MIN_FILMS = 30
SIGNIFICANT = 0.001
GAP_DIFFERENT, GAP_UNLIKE = 0.2, 0.3
STRANGE_DIFFERENT, STRANGE_UNLIKE = 0.05, 0.10
BINS = np.linspace(0, 1, 11)


class Likeness(IntEnum):
    """How far a batch is from the training films, the worst last."""

    LIKE = 0
    DIFFERENT = 1
    UNLIKE = 2


@dataclass(frozen=True)
class Gap:
    """One statistic of a batch against the training films.

    ``batch`` and ``training`` are the medians (of brightness and contrast the training mean),
    ``gap`` the largest distance between the distributions, ``p`` how often chance gives as much.
    """

    batch: float
    training: float
    gap: float
    p: float

    @property
    def likeness(self) -> Likeness:
        """What the gap amounts to; a gap that chance may give is none."""
        if self.p >= SIGNIFICANT or self.gap < GAP_DIFFERENT:
            return Likeness.LIKE
        return Likeness.UNLIKE if self.gap >= GAP_UNLIKE else Likeness.DIFFERENT


@dataclass(frozen=True)
class Drift:
    """A batch against the films that its first model learned from.

    ``films`` are the scored ones without copies; with fewer than ``MIN_FILMS`` there are no gaps.
    ``strange`` is the share of judged files that are atypical or were rejected for it; None where
    the model cannot say. ``looks`` holds the gap in "typicality", "brightness" and "contrast",
    where row and card have them. ``answers`` is the gap in the probabilities, against ``split``;
    ``batch_shares`` and ``known_shares`` are the shares of films in tenths of the probability.
    """

    films: int
    strange: Estimate | None
    looks: dict[str, Gap]
    answers: Gap | None
    split: str
    batch_shares: tuple[float, ...]
    known_shares: tuple[float, ...]

    @property
    def likeness(self) -> Likeness | None:
        """The worst of what the films look like; None where too little is known to say."""
        found = [gap.likeness for gap in self.looks.values()]
        low = self.strange.low if self.strange else None
        if low is not None and low > STRANGE_DIFFERENT:
            found.append(Likeness.UNLIKE if low > STRANGE_UNLIKE else Likeness.DIFFERENT)
        return max(found, default=None)


def measure_drift(rows: Sequence[Score], card: ModelCard) -> Drift:
    """Set the films of a run against those that its first model learned from.

    Args:
        rows: One per file; copies are counted once.
        card: Of the model that decides.
    """
    films = [row for row in rows if row.status == "scored" and not row.duplicate_of]
    known = card.references["validation"]
    probabilities = np.array([row.probability for row in films])
    levels = np.linspace(0, 1, len(known.score_quantiles))
    enough = len(films) >= MIN_FILMS

    def cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(x, known.score_quantiles, levels)

    return Drift(
        films=len(films),
        strange=_share_strange(rows, card),
        looks=_looks(films, card) if enough else {},
        answers=(
            _gap(probabilities, cdf, float(np.interp(0.5, levels, known.score_quantiles)))
            if enough
            else None
        ),
        split=known.split,
        batch_shares=tuple((np.histogram(probabilities, BINS)[0] / max(len(films), 1)).tolist()),
        known_shares=tuple(np.diff(np.concatenate([[0.0], cdf(BINS[1:-1]), [1.0]])).tolist()),
    )


def _share_strange(rows: Sequence[Score], card: ModelCard) -> Estimate | None:
    """The share of judged files that look strange to the model."""
    if card.typicality is None:
        return None
    judged = [
        row
        for row in rows
        if not row.duplicate_of
        and (row.status == "scored" or row.reason == NotRadiograph.code)
        and row.atypical is not None
    ]
    return proportion(sum(bool(row.atypical) for row in judged), len(judged)) if judged else None


def _looks(films: Sequence[Score], card: ModelCard) -> dict[str, Gap]:
    training = card.training
    found = {}
    typicality = [row.typicality for row in films if row.typicality is not None]
    if len(typicality) >= MIN_FILMS:
        # Only towards strange: a batch of nothing but ordinary films is no cause for alarm.
        found["typicality"] = _gap(np.array(typicality), _uniform, 0.5, "greater")
    for name, mean, sd in (
        ("brightness", training.brightness_mean, training.brightness_sd),
        ("contrast", training.contrast_mean, training.contrast_sd),
    ):
        values = [value for row in films if (value := getattr(row, name)) is not None]
        if len(values) >= MIN_FILMS and sd > 0:
            found[name] = _gap(np.array(values), partial(_bell, mean=mean, sd=sd), mean)
    return found


def _gap(
    values: NDArray[np.float64],
    cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    training: float,
    alternative: str = "two-sided",
) -> Gap:
    """The largest gap between values, (N,), and a distribution, or its largest excess over them.

    The chance of either of two sides is at most the sum of both, and nearly that where it is small.
    ``scipy.stats`` would say it exactly, and takes longer to import than the figures to draw.
    """
    from scipy.special import smirnov

    expected = cdf(np.sort(values))
    steps = np.arange(len(values) + 1) / len(values)
    sides = [float((steps[1:] - expected).max())]
    if alternative == "two-sided":
        sides.append(float((expected - steps[:-1]).max()))
    gap = max(sides)
    chance = min(1.0, len(sides) * float(smirnov(len(values), max(gap, 0.0))))
    return Gap(float(np.median(values)), training, gap, chance)


def _bell(x: NDArray[np.float64], mean: float, sd: float) -> NDArray[np.float64]:
    """The normal distribution's share below each x."""
    from scipy.special import ndtr

    return np.asarray(ndtr((x - mean) / sd))


def _uniform(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x, 0, 1)
