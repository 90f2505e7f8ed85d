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
from batch_scorer.metrics.classification import Estimate, estimate_proportion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import Score

MIN_IMAGES = 30
SIGNIFICANCE_LEVEL = 0.001
MEDIUM_KS, LARGE_KS = 0.2, 0.3
MEDIUM_ATYPICAL_SHARE, LARGE_ATYPICAL_SHARE = 0.05, 0.10
PROBABILITY_BINS = np.linspace(0, 1, 11)


class DriftLevel(IntEnum):
    """How far a batch is from the training films, the worst last."""

    LIKE = 0
    DIFFERENT = 1
    UNLIKE = 2


@dataclass(frozen=True)
class KsTest:
    """One statistic of a batch against the training films.

    ``batch`` and ``training`` are the medians (of brightness and contrast the training mean),
    ``gap`` the largest distance between the distributions, ``p`` how often chance gives as much.
    """

    batch: float
    training: float
    gap: float
    p: float

    @property
    def likeness(self) -> DriftLevel:
        """What the gap amounts to; a gap that chance may give is none."""
        if self.p >= SIGNIFICANCE_LEVEL or self.gap < MEDIUM_KS:
            return DriftLevel.LIKE
        return DriftLevel.UNLIKE if self.gap >= LARGE_KS else DriftLevel.DIFFERENT


@dataclass(frozen=True)
class Drift:
    """A batch against the films that its first model learned from.

    ``images`` are the scored ones without copies; with fewer than ``MIN_IMAGES`` there are no gaps.
    ``atypical_share`` is the share of judged files that are atypical or were rejected for it; None where
    the model cannot say. ``appearance`` holds the gap in "typicality", "brightness" and "contrast",
    where row and card have them. ``predictions`` is the gap in the probabilities, against ``split``;
    ``batch_histogram`` and ``reference_histogram`` are the shares of films in tenths of the probability.
    """

    images: int
    atypical_share: Estimate | None
    appearance: dict[str, KsTest]
    predictions: KsTest | None
    split: str
    batch_histogram: tuple[float, ...]
    reference_histogram: tuple[float, ...]

    @property
    def likeness(self) -> DriftLevel | None:
        """The worst of what the films look like; None where too little is known to say."""
        found = [gap.likeness for gap in self.appearance.values()]
        low = self.atypical_share.low if self.atypical_share else None
        if low is not None and low > MEDIUM_ATYPICAL_SHARE:
            found.append(DriftLevel.UNLIKE if low > LARGE_ATYPICAL_SHARE else DriftLevel.DIFFERENT)
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
    enough = len(films) >= MIN_IMAGES

    def cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(x, known.score_quantiles, levels)

    return Drift(
        images=len(films),
        atypical_share=_estimate_atypical_share(rows, card),
        appearance=_test_appearance(films, card) if enough else {},
        predictions=(
            _ks_test(probabilities, cdf, float(np.interp(0.5, levels, known.score_quantiles)))
            if enough
            else None
        ),
        split=known.split,
        batch_histogram=tuple(
            (np.histogram(probabilities, PROBABILITY_BINS)[0] / max(len(films), 1)).tolist()
        ),
        reference_histogram=tuple(
            np.diff(np.concatenate([[0.0], cdf(PROBABILITY_BINS[1:-1]), [1.0]])).tolist()
        ),
    )


def _estimate_atypical_share(rows: Sequence[Score], card: ModelCard) -> Estimate | None:
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
    return (
        estimate_proportion(sum(bool(row.atypical) for row in judged), len(judged))
        if judged
        else None
    )


def _test_appearance(films: Sequence[Score], card: ModelCard) -> dict[str, KsTest]:
    training = card.training
    found = {}
    typicality = [row.typicality for row in films if row.typicality is not None]
    if len(typicality) >= MIN_IMAGES:
        # Only towards strange: a batch of nothing but ordinary films is no cause for alarm.
        found["typicality"] = _ks_test(np.array(typicality), _uniform_cdf, 0.5, "greater")
    for name, mean, sd in (
        ("brightness", training.brightness_mean, training.brightness_sd),
        ("contrast", training.contrast_mean, training.contrast_sd),
    ):
        values = [value for row in films if (value := getattr(row, name)) is not None]
        if len(values) >= MIN_IMAGES and sd > 0:
            found[name] = _ks_test(np.array(values), partial(_normal_cdf, mean=mean, sd=sd), mean)
    return found


def _ks_test(
    values: NDArray[np.float64],
    cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    training: float,
    alternative: str = "two-sided",
) -> KsTest:
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
    return KsTest(float(np.median(values)), training, gap, chance)


def _normal_cdf(x: NDArray[np.float64], mean: float, sd: float) -> NDArray[np.float64]:
    """The normal distribution's share below each x."""
    from scipy.special import ndtr

    return np.asarray(ndtr((x - mean) / sd))


def _uniform_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x, 0, 1)
