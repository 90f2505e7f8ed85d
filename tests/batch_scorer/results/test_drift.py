"""Drift: alike where it is, unlike where it is, and silent where there is too little to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from scipy.stats import kstest, norm

from batch_scorer.results.drift import MIN_IMAGES, DriftLevel, _ks_test, measure_drift
from tests.factories import (
    make_card,
    make_models,
    make_rows,
    make_typicality,
    make_unscored,
    with_looks,
)

if TYPE_CHECKING:
    from batch_scorer.results.schema import Score

CARD = make_card("cnn", typicality=make_typicality())


def rows(films: int = 300, **looks: float) -> list[Score]:
    models = make_models("cnn")
    ill = round(0.74 * films)
    return with_looks(make_rows(models, films - ill, ill, seed=3), **looks)


def not_radiographs(number: int) -> list[Score]:
    return [
        msgspec.structs.replace(row, atypical=True, typicality=0.0)
        for row in make_unscored(number, status="rejected", reason="not_radiograph")
    ]


def test_films_like_the_training_films_look_alike() -> None:
    drift = measure_drift(rows(), CARD)
    assert drift.level == DriftLevel.NONE
    assert set(drift.appearance) == {"typicality", "brightness", "contrast"}
    assert drift.predictions is not None
    assert drift.predictions.level == DriftLevel.NONE
    assert sum(drift.batch_histogram) == pytest.approx(1)
    assert sum(drift.reference_histogram) == pytest.approx(1)


@pytest.mark.parametrize(
    ("brighter", "likeness"),
    [(0.6, DriftLevel.MEDIUM), (1.2, DriftLevel.LARGE), (-1.2, DriftLevel.LARGE)],
)
def test_brighter_or_darker_films_are_told_apart(brighter: float, likeness: DriftLevel) -> None:
    drift = measure_drift(rows(brighter=brighter), CARD)
    assert drift.level == drift.appearance["brightness"].level == likeness


def test_strange_films_are_unlike_and_ordinary_ones_no_cause_for_alarm() -> None:
    assert measure_drift(rows(stranger=4), CARD).appearance["typicality"].level == DriftLevel.LARGE
    ordinary = measure_drift(rows(stranger=0.25), CARD)
    assert ordinary.appearance["typicality"].level == DriftLevel.NONE


def test_another_share_of_ill_moves_the_answers_alone() -> None:
    models = make_models("cnn")
    drift = measure_drift(with_looks(make_rows(models, 200, 10)), CARD)
    assert drift.predictions is not None
    assert drift.predictions.level == DriftLevel.LARGE
    assert drift.level == DriftLevel.NONE


def test_rejected_images_count_as_strange_even_when_nothing_was_scored() -> None:
    drift = measure_drift(not_radiographs(5), CARD)
    assert drift.images == 0
    assert drift.atypical_share is not None
    assert drift.atypical_share.value == 1.0
    assert drift.level == DriftLevel.LARGE


def test_broken_files_say_nothing_of_the_films() -> None:
    for found in ([], make_unscored(9)):
        drift = measure_drift(found, CARD)
        assert (drift.images, drift.atypical_share, drift.level) == (0, None, None)


def test_too_few_films_give_no_gap() -> None:
    drift = measure_drift(rows(MIN_IMAGES - 1, brighter=3), CARD)
    assert (drift.appearance, drift.predictions, drift.level) == ({}, None, None)


def test_a_few_strange_films_of_many_are_no_drift() -> None:
    assert measure_drift([*rows(), *not_radiographs(6)], CARD).level == DriftLevel.NONE
    some = measure_drift([*rows(), *not_radiographs(25)], CARD).level
    assert some == DriftLevel.MEDIUM
    assert measure_drift([*rows(), *not_radiographs(60)], CARD).level == DriftLevel.LARGE


def test_copies_count_once() -> None:
    found = rows(60)
    copies = [msgspec.structs.replace(row, duplicate_of=row.image) for row in found]
    assert measure_drift([*found, *copies], CARD) == measure_drift(found, CARD)


def test_rows_and_cards_without_statistics_leave_it_open() -> None:
    bare = make_rows(make_models("cnn"), 60, 60)
    drift = measure_drift(bare, make_card("cnn"))
    assert (drift.appearance, drift.atypical_share, drift.level) == ({}, None, None)
    assert drift.predictions is not None


def test_random_batches_of_training_films_are_rarely_called_unlike() -> None:
    rng = np.random.default_rng(1)
    pool = rows(3000)
    false_alarms = sum(
        measure_drift([pool[i] for i in rng.choice(3000, 40, replace=False)], CARD).level
        == DriftLevel.LARGE
        for _ in range(100)
    )
    assert false_alarms <= 2


@pytest.mark.parametrize("films", [30, 200, 3000])
@pytest.mark.parametrize("moved", [0.0, 0.1, 0.6, -0.6])
def test_gaps_and_their_chance_are_those_of_scipy(films: int, moved: float) -> None:
    values = np.random.default_rng(films).normal(moved, 1, films)
    bell = norm(0, 1).cdf
    for alternative in ("two-sided", "greater"):
        ours = _ks_test(values, bell, 0.0, alternative)
        theirs = kstest(values, bell, alternative=alternative, method="exact")
        assert ours.statistic == pytest.approx(theirs.statistic)
        if alternative == "greater":
            assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6)
        else:
            assert theirs.pvalue <= ours.p * (1 + 1e-6) <= 2 * theirs.pvalue
            if theirs.pvalue < 0.01:
                assert ours.p == pytest.approx(theirs.pvalue, rel=0.01)
