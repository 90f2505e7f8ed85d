"""The band of uncertain answers, and films from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from trainer import evaluate
from trainer.data.dataset import LabelledImages


def overlapping(films=1000, seed=1):
    rng = np.random.default_rng(seed)
    truth = (rng.random(films) < 0.7).astype(np.int64)
    return truth, 1 / (1 + np.exp(-rng.normal(4 * (truth - 0.5), 1.5)))


def test_few_films_lie_on_the_wrong_side_of_the_band():
    truth, answers = overlapping()
    threshold = evaluate.choose_threshold(truth, answers).value
    band = evaluate.choose_undecided_band(truth, answers, threshold)
    assert band.low < threshold < band.high
    ill, well = answers[truth == 1], answers[truth == 0]
    assert (ill < band.low).mean() <= 0.01
    assert (well >= band.high).mean() <= 0.01
    next_ill, next_well = np.sort(ill[ill >= band.low])[0], np.sort(well[well < band.high])[-1]
    assert (ill <= next_ill).mean() > 0.01, "a higher lower edge would keep its promise too"
    assert (well >= next_well).mean() > 0.01, "a lower upper edge would keep its promise too"
    inside = np.array([band.contains(p) for p in answers])
    assert band.share.value == pytest.approx(inside.mean())
    assert band.share.n == 1000
    assert band.chosen_on == "validation"


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_always_lies_in_the_band(seed):
    truth, answers = overlapping(60, seed)
    for threshold in (evaluate.choose_threshold(truth, answers).value, 0.01, 0.99):
        band = evaluate.choose_undecided_band(truth, answers, threshold)
        assert 0 <= band.low <= threshold <= band.high <= 1


def test_where_validation_is_separated_no_flagged_film_is_uncertain():
    truth = np.repeat([0, 1], [100, 400])
    answers = np.concatenate([np.linspace(0.0, 0.1, 100), np.linspace(0.8, 1.0, 400)])
    threshold = evaluate.choose_threshold(truth, answers).value
    assert threshold > 0.8
    band = evaluate.choose_undecided_band(truth, answers, threshold)
    assert band.high == threshold
    assert 0.8 < band.low < threshold
    given_up = (truth == 1) & (answers < threshold)
    inside = np.array([band.contains(p) for p in answers])
    assert inside.sum() == given_up.sum() - 4  # 1 % of 400 may lie below the band
    assert band.share.value == pytest.approx(inside.mean())


def test_a_handful_of_separated_films_gives_the_gap_between_them():
    truth, answers = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    threshold = evaluate.choose_threshold(truth, answers).value
    band = evaluate.choose_undecided_band(truth, answers, threshold)
    assert (threshold, band.low, band.high) == (0.5, 0.5, 0.5)
    assert band.share.value == 0
    assert not any(band.contains(p) for p in answers)


def test_answers_that_are_all_the_same_are_all_uncertain():
    truth, answers = np.array([0, 0, 1, 1]), np.full(4, 0.7)
    band = evaluate.choose_undecided_band(
        truth, answers, evaluate.choose_threshold(truth, answers).value
    )
    assert band.low < 0.7 < band.high
    assert band.share.value == 1


def test_films_from_elsewhere_are_counted_at_the_threshold_unless_they_are_rejected():
    films = LabelledImages(
        np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), *[np.full(4, "")] * 2
    )
    judged = evaluate.CalibratedPredictions(films, np.zeros(4), np.array([0.1, 0.5, 0.49, 0.9]))
    one = evaluate.evaluate_external("adults", judged, np.array([False] * 3 + [True]), 0.5)
    assert (one.images, one.rejected, one.flagged, one.share.value) == (4, 1, 1, 0.25)
    found = evaluate.evaluate_external("adults", judged, np.zeros(4, bool), 0.5)
    assert (found.name, found.images, found.flagged) == ("adults", 4, 2)
    assert found.share.value == 0.5
    assert found.share.low < 0.2
    assert found.share.high > 0.8


def make_films(names):
    count = len(names)
    return LabelledImages(
        np.zeros((count, 8, 8, 1), np.uint8),
        np.array([int(name.startswith("person")) for name in names]),
        np.array([""] * count),
        np.array(names),
    )


def test_the_second_question_is_judged_on_films_whose_cause_is_known():
    names = [f"person{n}_{'virus' if n % 2 else 'bacteria'}_{n}.jpeg" for n in range(40)]
    films = make_films([*names, "IM-0001-0001.jpeg", "person_unknown.jpeg"])
    viral = np.where(films.etiology == "viral", 2.0, -2.0) * np.tile([1, 1, 1, 1, 1, -1], 7)
    answers = evaluate.NetworkOutputs(np.zeros(42), viral, np.zeros(42))
    found = evaluate.evaluate_etiology({"validation": films}, {"validation": answers})
    assert found.references["validation"]["accuracy"].n == 40
    right = (viral[:40] > 0) == (films.etiology[:40] == "viral")
    assert found.references["validation"]["accuracy"].value == pytest.approx(right.mean())
    alone = make_films(names[::2])
    silent = evaluate.NetworkOutputs(np.zeros(20), viral[:20], np.zeros(20))
    assert evaluate.evaluate_etiology({"validation": alone}, {"validation": silent}) is None


def test_typicality_keeps_its_limits_and_counts_every_set():
    found = evaluate.choose_ood_limits(
        np.linspace(-1, 1, 1000), {"validation": np.zeros(50), "elsewhere": np.array([0.97, 1.5])}
    )
    assert found.flag_above == pytest.approx(0.96, abs=0.01)
    assert found.flagged["training"].value == pytest.approx(0.02, abs=0.002)
    assert (found.flagged["elsewhere"].value, found.rejected["elsewhere"].value) == (1.0, 0.5)
    assert found.rejected["validation"].value == 0
    assert found.compute_typicality(0.0) == pytest.approx(0.5, abs=0.01)
    assert (found.compute_typicality(-5.0), found.compute_typicality(5.0)) == (1.0, 0.0)
