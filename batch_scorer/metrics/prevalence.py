"""Predictive values and prevalence from sensitivity and specificity, with intervals.

Predictive values at a given prevalence: the odds of pneumonia after a flag are the prior odds times
the likelihood ratio. The interval of that ratio combines those of sensitivity and specificity on
the log scale by squares (method of variance estimates recovery), so it works with any interval on a
model card, including those by patient. If one of the two is exactly 0 or 1, both limits are used at
once, which is wider.

The prevalence is estimated from the proportion of flagged images by Rogan and Gladen, with the
interval of Lang and Reiczigel. An interval that images of one patient widened counts as fewer
images.

Source: Mercaldo et al. 2007 (predictive values); Zou and Donner 2008 (intervals); Rogan and Gladen
1978; Lang and Reiczigel 2014.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri

from batch_scorer.metrics.classification import CONFIDENCE_LEVEL, Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Z_SCORE = float(ndtri((1 + CONFIDENCE_LEVEL) / 2))


def predictive_values(
    sensitivity: Estimate, specificity: Estimate, prevalence: float
) -> tuple[Estimate, Estimate]:
    """Compute the positive and negative predictive value at a prevalence.

    Args:
        sensitivity: An estimate with its interval.
        specificity: An estimate with its interval, from other images.
        prevalence: The proportion with pneumonia, between 0 and 1, both excluded.

    Returns:
        Positive and negative predictive value; undefined if a class has no images.
    """
    sens, spec = _to_proportion(sensitivity), _to_proportion(specificity)
    n = sensitivity.n + specificity.n
    if sens is None or spec is None:
        return Estimate(None, None, None, n), Estimate(None, None, None, n)
    prior = float(logit(prevalence))
    return (
        _posterior(_log_likelihood_ratio(sens, spec.complement), prior, n),
        _posterior(_log_likelihood_ratio(spec, sens.complement), -prior, n),
    )


def adjusted_prevalence(
    flagged: int, images: int, sensitivity: Estimate, specificity: Estimate
) -> Estimate:
    """Estimate the proportion of images with pneumonia from the number of flagged images.

    Args:
        flagged: Number of flagged images of the batch.
        images: Number of images of the batch.
        sensitivity: The model's sensitivity on similar images.
        specificity: The model's specificity on similar images.

    Returns:
        A proportion; undefined without images, or if the model is not better than chance.
    """
    sens, spec = _to_proportion(sensitivity), _to_proportion(specificity)
    if not images or sens is None or spec is None or sens.value + spec.value <= 1:
        return Estimate(None, None, None, images)
    n_se, n_sp = sens.effective_n + 2, spec.effective_n + 2
    se = (sens.value * (n_se - 2) + 1) / n_se
    sp = (spec.value * (n_sp - 2) + 1) / n_sp
    n = images + Z_SCORE**2
    apparent = (flagged + Z_SCORE**2 / 2) / n
    youden = se + sp - 1
    centre = (apparent + sp - 1) / youden
    spread_se, spread_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * Z_SCORE**2 * (centre * spread_se - (1 - centre) * spread_sp)
    variance = apparent * (1 - apparent) / n
    variance += centre**2 * spread_se + (1 - centre) ** 2 * spread_sp
    half = Z_SCORE * math.sqrt(variance) / youden
    value = (flagged / images + spec.value - 1) / (sens.value + spec.value - 1)
    low, high = centre + shift - half, centre + shift + half
    return Estimate(_clip(value), _clip(low), _clip(high), images)


def expected_count(probabilities: ArrayLike) -> Estimate:
    """Estimate how many of N independent events happen, if their probabilities are right.

    Args:
        probabilities: Shape (N,).

    Returns:
        The expected number with the normal interval of a Poisson binomial distribution. It covers
        chance only, not errors of the probabilities.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    mean, half = float(p.sum()), Z_SCORE * math.sqrt(float((p * (1 - p)).sum()))
    return Estimate(mean, max(0.0, mean - half), min(float(len(p)), mean + half), len(p))


class _Proportion(NamedTuple):
    """A proportion whose value and interval are defined."""

    value: float
    low: float
    high: float
    n: int

    @property
    def complement(self) -> _Proportion:
        """The proportion of the others."""
        return _Proportion(1 - self.value, 1 - self.high, 1 - self.low, self.n)

    @property
    def effective_n(self) -> float:
        """The number of independent images that give an interval as wide, at most ``n``."""
        half = (self.high - self.low) / 2
        if not half or self.value in (0, 1):
            return self.n
        return min(self.n, self.value * (1 - self.value) * (Z_SCORE / half) ** 2)


def _to_proportion(estimate: Estimate) -> _Proportion | None:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return _Proportion(estimate.value, estimate.low, estimate.high, estimate.n)


def _log_likelihood_ratio(
    above: _Proportion, below: _Proportion
) -> tuple[float, float, float] | None:
    """Return the log of a ratio of two proportions with its limits; None if both are 0."""
    with np.errstate(divide="ignore"):
        a, a_low, a_high = np.log(above[:3])
        b, b_low, b_high = np.log(below[:3])
    if not above.value and not below.value:
        return None
    if not below.value:
        return math.inf, float(a_low - b_high), math.inf
    if not above.value:
        return -math.inf, -math.inf, float(a_high - b_low)
    return (
        float(a - b),
        float(a - b - np.hypot(a - a_low, b_high - b)),
        float(a - b + np.hypot(a_high - a, b - b_low)),
    )


def _posterior(ratio: tuple[float, float, float] | None, prior: float, n: int) -> Estimate:
    """Return the posterior probability from a log likelihood ratio and prior log odds."""
    if ratio is None:
        return Estimate(None, None, None, n)
    value, low, high = (float(expit(prior + part)) for part in ratio)
    return Estimate(value, low, high, n)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
