"""Metrics against scikit-learn and SciPy, and the intervals' own rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from batch_scorer.metrics import classification

RNG = np.random.default_rng(3)
TRUTH = (RNG.random(300) < 0.6).astype(int)
SCORES = np.round(np.clip(0.35 * TRUTH + RNG.random(300) * 0.65, 0, 1), 2)  # rounded: with ties
FLAGS = (SCORES >= 0.5).astype(int)


def test_every_value_agrees_with_scikit_learn():
    found = {
        name: part.value
        for name, part in classification.compute_metrics(TRUTH, SCORES, 0.5).items()
    }
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(TRUTH, FLAGS),
            "precision": reference.precision_score(TRUTH, FLAGS),
            "recall": reference.recall_score(TRUTH, FLAGS),
            "specificity": reference.recall_score(1 - TRUTH, 1 - FLAGS),
            "f1": reference.f1_score(TRUTH, FLAGS),
            "auc": reference.roc_auc_score(TRUTH, SCORES),
            "brier": reference.brier_score_loss(TRUTH, SCORES),
            "ece": _ece_by_hand(),
        }
    )


def _ece_by_hand() -> float:
    total = 0.0
    for low in np.arange(10) / 10:
        inside = (low <= SCORES) & ((low + 0.1 > SCORES) | (low == 0.9))
        if inside.any():
            total += inside.mean() * abs(SCORES[inside].mean() - TRUTH[inside].mean())
    return total


def test_the_auc_comes_from_probabilities_and_not_from_flags():
    assert classification.compute_metrics(TRUTH, SCORES, 0.5)["auc"].value != pytest.approx(
        reference.roc_auc_score(TRUTH, FLAGS), abs=0.01
    )


def test_proportions_without_patients_have_wilson_s_interval():
    recall = classification.compute_metrics(TRUTH, SCORES, 0.5)["recall"]
    counts = classification.confusion_matrix(TRUTH, SCORES, 0.5)
    expected = binomtest(counts.true_positive, int(TRUTH.sum())).proportion_ci(method="wilson")
    assert (recall.low, recall.high) == pytest.approx((expected.low, expected.high))
    assert recall.n == TRUTH.sum()


def test_several_films_of_one_patient_widen_the_interval():
    alone = classification.compute_metrics(TRUTH, SCORES, 0.5)["auc"]
    copied = np.repeat(TRUTH, 4), np.repeat(SCORES, 4)
    naive = classification.compute_metrics(*copied, 0.5)["auc"]
    patients = np.repeat([f"p{i}" for i in range(300)], 4).tolist()
    by_patient = classification.compute_metrics(*copied, 0.5, patients)["auc"]
    assert naive.high - naive.low < 0.7 * (alone.high - alone.low)
    assert by_patient.high - by_patient.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_a_perfect_share_still_has_an_interval():
    specificity = classification.compute_metrics([0, 0, 0, 1], [0.1, 0.2, 0.1, 0.9], 0.5)[
        "specificity"
    ]
    assert specificity.value == 1
    assert 0.3 < specificity.low < 0.7


def test_one_class_leaves_undefined_what_is_undefined():
    found = classification.compute_metrics([1, 1, 1], [0.2, 0.7, 0.9], 0.5)
    assert found["auc"].value is None
    assert found["specificity"].value is None
    assert found["recall"].value == pytest.approx(2 / 3)
    assert classification.roc_points([1, 1], [0.2, 0.7]).x == []


def test_no_films_give_no_numbers():
    assert all(part.value is None for part in classification.compute_metrics([], [], 0.5).values())


def test_blocks_of_the_bootstrap_change_nothing(monkeypatch):
    whole = classification.compute_metrics(TRUTH, SCORES, 0.5)
    monkeypatch.setattr(classification, "MAX_BLOCK_WEIGHTS", 300 * 7)
    assert classification.compute_metrics(TRUTH, SCORES, 0.5) == whole


def test_the_threshold_keeps_the_sensitivity_and_flags_no_more_than_it_must():
    threshold = classification.threshold_at_sensitivity(TRUTH, SCORES, 0.9)
    positives = SCORES[TRUTH == 1]
    assert (positives >= threshold).mean() >= 0.9
    next_score = positives[positives >= threshold].min()
    assert (positives > next_score).mean() < 0.9
    with pytest.raises(ValueError, match="found none"):
        classification.threshold_at_sensitivity([0, 0], [0.1, 0.2], 0.9)


OTHER = np.round(np.clip(0.15 * TRUTH + RNG.random(300) * 0.85, 0, 1), 2)


def _delong_sd(truth, first, second):
    """The standard deviation of the AUC difference by DeLong et al. 1988, films independent."""
    parts = []
    for scores in (first, second):
        ill, well = scores[truth == 1][:, None], scores[truth == 0][None, :]
        wins = (ill > well) + (ill == well) / 2
        parts.append((wins.mean(axis=1), wins.mean(axis=0)))
    ill, well = (parts[0][k] - parts[1][k] for k in (0, 1))
    return np.sqrt(ill.var(ddof=1) / len(ill) + well.var(ddof=1) / len(well))


def test_a_paired_difference_agrees_with_scikit_learn_and_its_interval_with_delong():
    found = classification.compare_models(TRUTH, (SCORES, 0.5), (OTHER, 0.6))
    auc, p = found["auc"]
    assert auc.value == pytest.approx(
        reference.roc_auc_score(TRUTH, SCORES) - reference.roc_auc_score(TRUTH, OTHER)
    )
    assert auc.high - auc.low == pytest.approx(2 * 1.96 * _delong_sd(TRUTH, SCORES, OTHER), rel=0.1)
    assert auc.low > 0
    assert p < 0.001
    accuracy, _ = found["accuracy"]
    assert accuracy.value == pytest.approx(
        (FLAGS == TRUTH).mean() - ((OTHER >= 0.6) == TRUTH).mean()
    )
    assert accuracy.n == 300


def test_a_difference_the_other_way_round_is_the_same_with_the_other_sign():
    one = classification.compare_models(TRUTH, (SCORES, 0.5), (OTHER, 0.6), resamples=500)
    two = classification.compare_models(TRUTH, (OTHER, 0.6), (SCORES, 0.5), resamples=500)
    for name in classification.COMPARED_METRICS:
        assert one[name][0].low == pytest.approx(-two[name][0].high)
        assert one[name][1] == pytest.approx(two[name][1])


def test_a_model_does_not_differ_from_itself():
    for estimate, p in classification.compare_models(TRUTH, (SCORES, 0.5), (SCORES, 0.5)).values():
        assert (estimate.value, estimate.low, estimate.high, p) == (0, 0, 0, 1)


def test_pairing_narrows_the_interval_of_like_models_and_patients_widen_it():
    alike = np.clip(SCORES + RNG.normal(0, 0.02, 300), 0, 1)
    paired = classification.compare_models(TRUTH, (SCORES, 0.5), (alike, 0.5))["auc"][0]
    alone = classification.compute_metrics(TRUTH, SCORES, 0.5)["auc"]
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    copied = [np.repeat(values, 4) for values in (TRUTH, SCORES, alike)]
    arguments = (copied[0], (copied[1], 0.5), (copied[2], 0.5))
    naive = classification.compare_models(*arguments, resamples=1000)["auc"][0]
    patients = np.repeat([f"p{i}" for i in range(300)], 4).tolist()
    by_patient = classification.compare_models(*arguments, patients, resamples=1000)["auc"][0]
    assert naive.high - naive.low < 0.7 * (by_patient.high - by_patient.low)


def test_models_that_do_not_differ_are_seldom_called_different():
    rng = np.random.default_rng(7)
    calls = 0
    for _ in range(200):
        truth = (rng.random(120) < 0.5).astype(int)
        shared = truth + rng.normal(0, 0.8, 120)
        one, two = (1 / (1 + np.exp(-shared - rng.normal(0, 0.6, 120))) for _ in range(2))
        p = classification.compare_models(truth, (one, 0.5), (two, 0.5), resamples=300)["auc"][1]
        calls += p < 0.05
    assert 2 <= calls <= 22  # 5 % of 200 is 10


def test_with_one_class_only_the_accuracy_can_be_compared():
    assert set(
        classification.compare_models([1, 1, 1], ([0.2, 0.7, 0.9], 0.5), ([0.2, 0.1, 0.9], 0.5))
    ) == {"accuracy"}


def test_confusion_counts_add_up():
    counts = classification.confusion_matrix(TRUTH, SCORES, 0.5)
    expected = reference.confusion_matrix(TRUTH, FLAGS).ravel()
    assert (
        counts.true_negative,
        counts.false_positive,
        counts.false_negative,
        counts.true_positive,
    ) == tuple(expected)
    assert counts.total == 300
