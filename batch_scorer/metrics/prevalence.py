"""What sensitivity and specificity mean where pneumonia is rarer or more common, with intervals.

Predictive values at a given prevalence: the odds of pneumonia after a flag are the odds before it
times the likelihood ratio. The interval of that ratio joins those of sensitivity and specificity on
the log scale by squares (method of variance estimates recovery), so that it works from whatever
intervals a model file carries, also those by patient. Where one of the two is exactly 0 or 1, both
limits are taken at once, which is wider.

The prevalence behind a share of flagged films is corrected by Rogan and Gladen, with the interval
of Lang and Reiczigel. Where films of one patient widened an interval, it counts for fewer films.

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
    """The share of right answers among the flagged, and among those not flagged.

    Args:
        sensitivity: With its interval.
        specificity: With its interval, from other films.
        prevalence: Share with pneumonia among all, between 0 and 1, both excluded.

    Returns:
        Positive and negative predictive value, each undefined where a class has no films.
    """
    found, cleared = _to_proportion(sensitivity), _to_proportion(specificity)
    n = sensitivity.n + specificity.n
    if found is None or cleared is None:
        return Estimate(None, None, None, n), Estimate(None, None, None, n)
    prior = float(logit(prevalence))
    return (
        _posterior(_log_likelihood_ratio(found, cleared.others), prior, n),
        _posterior(_log_likelihood_ratio(cleared, found.others), -prior, n),
    )


def adjusted_prevalence(
    flagged: int, films: int, sensitivity: Estimate, specificity: Estimate
) -> Estimate:
    """The share of films with pneumonia that explains a share of flagged ones.

    Args:
        flagged: How many films of the batch are flagged.
        films: How many films the batch has.
        sensitivity: Of the model on films like these.
        specificity: Of the model on films like these.

    Returns:
        Between 0 and 1; undefined without films, or for a model that is no better than chance.
    """
    found, cleared = _to_proportion(sensitivity), _to_proportion(specificity)
    if not films or found is None or cleared is None or found.value + cleared.value <= 1:
        return Estimate(None, None, None, films)
    n_se, n_sp = found.effective_n + 2, cleared.effective_n + 2
    se = (found.value * (n_se - 2) + 1) / n_se
    sp = (cleared.value * (n_sp - 2) + 1) / n_sp
    n = films + Z_SCORE**2
    apparent = (flagged + Z_SCORE**2 / 2) / n
    better = se + sp - 1
    centre = (apparent + sp - 1) / better
    spread_se, spread_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * Z_SCORE**2 * (centre * spread_se - (1 - centre) * spread_sp)
    variance = apparent * (1 - apparent) / n
    variance += centre**2 * spread_se + (1 - centre) ** 2 * spread_sp
    half = Z_SCORE * math.sqrt(variance) / better
    value = (flagged / films + cleared.value - 1) / (found.value + cleared.value - 1)
    low, high = centre + shift - half, centre + shift + half
    return Estimate(_clip(value), _clip(low), _clip(high), films)


def expected_count(probabilities: ArrayLike) -> Estimate:
    """How many of some events happen, each with its own probability, if these are right.

    Args:
        probabilities: Shape (N,), of N independent events.

    Returns:
        The expected number with the normal interval of a Poisson binomial distribution: chance
        alone, not doubt about the probabilities.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    mean, half = float(p.sum()), Z_SCORE * math.sqrt(float((p * (1 - p)).sum()))
    return Estimate(mean, max(0.0, mean - half), min(float(len(p)), mean + half), len(p))


class _Proportion(NamedTuple):
    """A share that its films define."""

    value: float
    low: float
    high: float
    n: int

    @property
    def others(self) -> _Proportion:
        """Those who are not in the share."""
        return _Proportion(1 - self.value, 1 - self.high, 1 - self.low, self.n)

    @property
    def effective_n(self) -> float:
        """How many independent films would give as wide an interval, at most ``n``."""
        half = (self.high - self.low) / 2
        if not half or self.value in (0, 1):
            return self.n
        return min(self.n, self.value * (1 - self.value) * (Z_SCORE / half) ** 2)


def _to_proportion(share: Estimate) -> _Proportion | None:
    if share.value is None or share.low is None or share.high is None:
        return None
    return _Proportion(share.value, share.low, share.high, share.n)


def _log_likelihood_ratio(
    above: _Proportion, below: _Proportion
) -> tuple[float, float, float] | None:
    """The logarithm of a ratio of two shares with its limits; None where both are 0."""
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
    """The probability after an answer, from the log likelihood ratio and the log odds before it."""
    if ratio is None:
        return Estimate(None, None, None, n)
    value, low, high = (float(expit(prior + part)) for part in ratio)
    return Estimate(value, low, high, n)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
