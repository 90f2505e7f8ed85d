"""Drift of a batch from the training images of its model.

The Kolmogorov-Smirnov statistic compares a measure of the batch with the training images: the
largest gap between the two distributions, from 0 (equal) to 1 (disjoint). Two normal distributions
half a standard deviation apart have a gap of 0.2, at 0.8 it is 0.3 (the medium and the large effect
of Cohen 1988). A gap counts only if chance alone is unlikely to cause it.

The images' appearance is tested apart from the model's probabilities: these also move with the
prevalence of pneumonia, while every image stays typical.
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
    """Distance of a batch from the training images, the largest last."""

    NONE = 0
    MEDIUM = 1
    LARGE = 2


@dataclass(frozen=True)
class KsTest:
    """Test of one measure of a batch against the training images.

    ``batch`` and ``training`` are the medians (of brightness and contrast, the training mean).
    ``statistic`` is the Kolmogorov-Smirnov statistic, ``p`` its p-value.
    """

    batch: float
    training: float
    statistic: float
    p: float

    @property
    def level(self) -> DriftLevel:
        """Level of the gap; an insignificant gap is none."""
        if self.p >= SIGNIFICANCE_LEVEL or self.statistic < MEDIUM_KS:
            return DriftLevel.NONE
        return DriftLevel.LARGE if self.statistic >= LARGE_KS else DriftLevel.MEDIUM


@dataclass(frozen=True)
class Drift:
    """Comparison of a batch with the training images of its first model.

    ``images`` counts the scored images without copies; fewer than ``MIN_IMAGES`` are not tested.
    ``atypical_share`` is the share of atypical files, including those rejected as no radiograph;
    None if the model has no typicality. ``appearance`` holds the tests of "typicality",
    "brightness" and "contrast", as far as rows and card have them. ``predictions`` tests the
    probabilities against those of ``split``. ``batch_histogram`` and ``reference_histogram`` hold
    the shares of images in tenths of the probability.
    """

    images: int
    atypical_share: Estimate | None
    appearance: dict[str, KsTest]
    predictions: KsTest | None
    split: str
    batch_histogram: tuple[float, ...]
    reference_histogram: tuple[float, ...]

    @property
    def level(self) -> DriftLevel | None:
        """Largest level of the images' appearance; None if nothing could be tested."""
        found = [gap.level for gap in self.appearance.values()]
        low = self.atypical_share.low if self.atypical_share else None
        if low is not None and low > MEDIUM_ATYPICAL_SHARE:
            found.append(DriftLevel.LARGE if low > LARGE_ATYPICAL_SHARE else DriftLevel.MEDIUM)
        return max(found, default=None)


def measure_drift(rows: Sequence[Score], card: ModelCard) -> Drift:
    """Compare the images of a run with the training images of its first model.

    Args:
        rows: The rows of all files; copies are counted once.
        card: The card of the first model.
    """
    images = [row for row in rows if row.status == "scored" and not row.duplicate_of]
    reference = card.references["validation"]
    probabilities = np.array([row.probability for row in images])
    levels = np.linspace(0, 1, len(reference.score_quantiles))
    enough = len(images) >= MIN_IMAGES

    def cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(x, reference.score_quantiles, levels)

    return Drift(
        images=len(images),
        atypical_share=_estimate_atypical_share(rows, card),
        appearance=_test_appearance(images, card) if enough else {},
        predictions=(
            _ks_test(probabilities, cdf, float(np.interp(0.5, levels, reference.score_quantiles)))
            if enough
            else None
        ),
        split=reference.split,
        batch_histogram=tuple(
            (np.histogram(probabilities, PROBABILITY_BINS)[0] / max(len(images), 1)).tolist()
        ),
        reference_histogram=tuple(
            np.diff(np.concatenate([[0.0], cdf(PROBABILITY_BINS[1:-1]), [1.0]])).tolist()
        ),
    )


def _estimate_atypical_share(rows: Sequence[Score], card: ModelCard) -> Estimate | None:
    """Estimate the share of files that are atypical for the model."""
    if card.typicality is None:
        return None
    checked = [
        row
        for row in rows
        if not row.duplicate_of
        and (row.status == "scored" or row.reason == NotRadiograph.code)
        and row.atypical is not None
    ]
    return (
        estimate_proportion(sum(bool(row.atypical) for row in checked), len(checked))
        if checked
        else None
    )


def _test_appearance(images: Sequence[Score], card: ModelCard) -> dict[str, KsTest]:
    training = card.training
    found = {}
    typicality = [row.typicality for row in images if row.typicality is not None]
    if len(typicality) >= MIN_IMAGES:
        # One-sided, towards atypical: a batch of typical images alone needs no warning.
        found["typicality"] = _ks_test(np.array(typicality), _uniform_cdf, 0.5, "greater")
    for name, mean, sd in (
        ("brightness", training.brightness_mean, training.brightness_sd),
        ("contrast", training.contrast_mean, training.contrast_sd),
    ):
        values = [value for row in images if (value := getattr(row, name)) is not None]
        if len(values) >= MIN_IMAGES and sd > 0:
            found[name] = _ks_test(np.array(values), partial(_normal_cdf, mean=mean, sd=sd), mean)
    return found


def _ks_test(
    values: NDArray[np.float64],
    cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    training: float,
    alternative: str = "two-sided",
) -> KsTest:
    """Test values (N,) against a distribution, on both sides or for an excess of low values.

    The two-sided p-value is the sum of both sides: an upper bound, and nearly exact if small.
    ``scipy.stats`` is exact, but its import takes longer than drawing the charts.
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
    """Return the normal distribution function at each x."""
    from scipy.special import ndtr

    return np.asarray(ndtr((x - mean) / sd))


def _uniform_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(x, 0, 1)
