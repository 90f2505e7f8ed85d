"""Metrics against scikit-learn and SciPy, and the intervals' own rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from batch_scorer import metrics

RNG = np.random.default_rng(3)
TRUTH = (RNG.random(300) < 0.6).astype(int)
SCORES = np.round(np.clip(0.35 * TRUTH + RNG.random(300) * 0.65, 0, 1), 2)  # rounded: with ties
FLAGS = (SCORES >= 0.5).astype(int)


def test_every_value_agrees_with_scikit_learn():
    found = {name: part.value for name, part in metrics.evaluate(TRUTH, SCORES, 0.5).items()}
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
    assert metrics.evaluate(TRUTH, SCORES, 0.5)["auc"].value != pytest.approx(
        reference.roc_auc_score(TRUTH, FLAGS), abs=0.01
    )


def test_proportions_without_patients_have_wilson_s_interval():
    recall = metrics.evaluate(TRUTH, SCORES, 0.5)["recall"]
    counts = metrics.confusion(TRUTH, SCORES, 0.5)
    expected = binomtest(counts.true_positive, int(TRUTH.sum())).proportion_ci(method="wilson")
    assert (recall.low, recall.high) == pytest.approx((expected.low, expected.high))
    assert recall.n == TRUTH.sum()


def test_several_films_of_one_patient_widen_the_interval():
    alone = metrics.evaluate(TRUTH, SCORES, 0.5)["auc"]
    copied = np.repeat(TRUTH, 4), np.repeat(SCORES, 4)
    naive = metrics.evaluate(*copied, 0.5)["auc"]
    patients = np.repeat([f"p{i}" for i in range(300)], 4).tolist()
    by_patient = metrics.evaluate(*copied, 0.5, patients)["auc"]
    assert naive.high - naive.low < 0.7 * (alone.high - alone.low)
    assert by_patient.high - by_patient.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_a_perfect_share_still_has_an_interval():
    specificity = metrics.evaluate([0, 0, 0, 1], [0.1, 0.2, 0.1, 0.9], 0.5)["specificity"]
    assert specificity.value == 1
    assert 0.3 < specificity.low < 0.7


def test_one_class_leaves_undefined_what_is_undefined():
    found = metrics.evaluate([1, 1, 1], [0.2, 0.7, 0.9], 0.5)
    assert found["auc"].value is None
    assert found["specificity"].value is None
    assert found["recall"].value == pytest.approx(2 / 3)
    assert metrics.roc_points([1, 1], [0.2, 0.7]).x == []


def test_no_films_give_no_numbers():
    assert all(part.value is None for part in metrics.evaluate([], [], 0.5).values())


def test_blocks_of_the_bootstrap_change_nothing(monkeypatch):
    whole = metrics.evaluate(TRUTH, SCORES, 0.5)
    monkeypatch.setattr(metrics, "BLOCK_WEIGHTS", 300 * 7)
    assert metrics.evaluate(TRUTH, SCORES, 0.5) == whole


def test_the_threshold_keeps_the_sensitivity_and_flags_no_more_than_it_must():
    threshold = metrics.threshold_at_sensitivity(TRUTH, SCORES, 0.9)
    positives = SCORES[TRUTH == 1]
    assert (positives >= threshold).mean() >= 0.9
    next_score = positives[positives >= threshold].min()
    assert (positives > next_score).mean() < 0.9
    with pytest.raises(ValueError, match="found none"):
        metrics.threshold_at_sensitivity([0, 0], [0.1, 0.2], 0.9)


def test_confusion_counts_add_up():
    counts = metrics.confusion(TRUTH, SCORES, 0.5)
    expected = reference.confusion_matrix(TRUTH, FLAGS).ravel()
    assert (
        counts.true_negative,
        counts.false_positive,
        counts.false_negative,
        counts.true_positive,
    ) == tuple(expected)
    assert counts.total == 300
