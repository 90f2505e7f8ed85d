"""Predictive values and corrected prevalence: right by hand, and their intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson_binom

from batch_scorer.metrics.classification import Estimate, estimate_proportion
from batch_scorer.metrics.prevalence import adjusted_prevalence, expected_count, predictive_values


def test_predictive_values_are_those_of_bayes() -> None:
    right, clear = predictive_values(
        estimate_proportion(90, 100), estimate_proportion(80, 100), 0.1
    )
    assert right.value == pytest.approx(0.09 / (0.09 + 0.18))
    assert clear.value == pytest.approx(0.72 / (0.72 + 0.01))
    assert right.n == clear.n == 200
    for estimate in (right, clear):
        assert 0 < estimate.low < estimate.value < estimate.high < 1


def test_a_flag_means_more_where_pneumonia_is_common() -> None:
    found = [
        predictive_values(estimate_proportion(382, 390), estimate_proportion(184, 234), p)
        for p in (0.05, 0.6)
    ]
    assert found[0][0].value == pytest.approx(0.194, abs=0.001)
    assert found[1][0].value == pytest.approx(0.873, abs=0.001)
    assert found[0][1].value > found[1][1].value


def test_wider_intervals_of_the_model_make_wider_ones_here() -> None:
    narrow = predictive_values(estimate_proportion(90, 100), Estimate(0.8, 0.75, 0.85, 100), 0.1)[0]
    wide = predictive_values(estimate_proportion(90, 100), Estimate(0.8, 0.65, 0.9, 100), 0.1)[0]
    assert wide.low < narrow.low
    assert wide.high > narrow.high


def test_shares_of_nought_and_one_have_a_limit_on_one_side() -> None:
    right, clear = predictive_values(estimate_proportion(20, 20), estimate_proportion(30, 30), 0.25)
    assert (right.value, right.high) == (1.0, 1.0)
    assert 0.3 < right.low < 1
    assert (clear.value, clear.high) == (1.0, 1.0)
    never, _ = predictive_values(estimate_proportion(0, 20), estimate_proportion(15, 30), 0.25)
    assert (never.value, never.low) == (0.0, 0.0)
    assert 0 < never.high < 1


def test_a_model_that_flags_nothing_has_no_precision() -> None:
    right, clear = predictive_values(estimate_proportion(0, 20), estimate_proportion(30, 30), 0.25)
    assert right == Estimate(None, None, None, 50)
    assert clear.value == pytest.approx(0.75)


def test_without_films_of_a_class_nothing_is_said() -> None:
    undefined = Estimate(None, None, None, 0)
    for pair in ((undefined, estimate_proportion(1, 2)), (estimate_proportion(1, 2), undefined)):
        assert predictive_values(*pair, 0.1)[0].value is None
        assert adjusted_prevalence(3, 10, *pair).value is None


@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.98, 0.79), (0.8, 0.95)])
def test_about_95_of_100_intervals_hold_the_true_predictive_value(
    sensitivity: float, specificity: float
) -> None:
    rng = np.random.default_rng(4)
    truth = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
    hits = 0
    for _ in range(600):
        found, clear = rng.binomial(390, sensitivity), rng.binomial(234, specificity)
        right, _ = predictive_values(
            estimate_proportion(int(found), 390), estimate_proportion(int(clear), 234), 0.1
        )
        hits += right.low <= truth <= right.high
    assert 0.93 <= hits / 600 <= 0.98


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.8])
def test_about_95_of_100_intervals_hold_the_true_prevalence(prevalence: float) -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(600):
        flagged = rng.binomial(300, prevalence * 0.95 + (1 - prevalence) * 0.15)
        found = adjusted_prevalence(
            int(flagged),
            300,
            estimate_proportion(int(rng.binomial(390, 0.95)), 390),
            estimate_proportion(int(rng.binomial(234, 0.85)), 234),
        )
        hits += found.low <= prevalence <= found.high
    assert 0.93 <= hits / 600 <= 0.99


def test_the_corrected_prevalence_is_that_of_rogan_and_gladen() -> None:
    found = adjusted_prevalence(
        135, 199, estimate_proportion(382, 390), estimate_proportion(184, 234)
    )
    apparent, se, sp = 135 / 199, 382 / 390, 184 / 234
    assert found.value == pytest.approx((apparent + sp - 1) / (se + sp - 1))
    assert found.n == 199


def test_fewer_flags_than_false_alarms_mean_nought() -> None:
    found = adjusted_prevalence(0, 50, estimate_proportion(95, 100), estimate_proportion(80, 100))
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 <= found.high < 0.2


def test_several_films_of_a_patient_widen_the_prevalence() -> None:
    alone = adjusted_prevalence(60, 100, estimate_proportion(90, 100), estimate_proportion(80, 100))
    clustered = adjusted_prevalence(
        60, 100, Estimate(0.9, 0.75, 0.99, 100), estimate_proportion(80, 100)
    )
    assert clustered.high - clustered.low > alone.high - alone.low


def test_a_model_no_better_than_chance_and_no_film_tell_no_prevalence() -> None:
    assert (
        adjusted_prevalence(5, 10, estimate_proportion(4, 10), estimate_proportion(6, 10)).value
        is None
    )
    assert (
        adjusted_prevalence(0, 0, estimate_proportion(9, 10), estimate_proportion(9, 10)).value
        is None
    )


def test_expected_errors_are_a_sum_with_the_interval_of_chance() -> None:
    chances = np.random.default_rng(6).beta(0.3, 2, 200)
    found = expected_count(chances)
    assert found.value == pytest.approx(chances.sum())
    inside = poisson_binom.cdf(np.floor(found.high), chances) - poisson_binom.cdf(
        np.ceil(found.low) - 1, chances
    )
    assert 0.93 < inside < 0.97
    assert expected_count([]) == Estimate(0.0, 0.0, 0.0, 0)
    assert expected_count([1.0, 1.0]) == Estimate(2.0, 2.0, 2.0, 2)
