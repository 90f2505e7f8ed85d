"""Every sentence on what may be expected of a batch without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from batch_scorer.metrics.prevalence import adjusted_prevalence
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.unlabelled import LabelFreeEstimates, describe_label_free
from batch_scorer.report.content.view import RunView
from tests.factories import (
    make_manifest,
    make_models,
    make_rows,
    make_scores,
    make_typicality,
    make_unscored,
    with_looks,
)

if TYPE_CHECKING:
    from batch_scorer.results.schema import ModelUsed, Score


def tell(rows: list[Score], models: list[ModelUsed], **changes: Any) -> LabelFreeEstimates | None:
    manifest = make_manifest(rows, models, **changes)
    return describe_label_free(RunView(manifest, rows))


@pytest.fixture(scope="module")
def models() -> list[ModelUsed]:
    return make_models("cnn", typicality=make_typicality())


def test_labels_and_nothing_scored_need_no_estimate(models: list[ModelUsed]) -> None:
    assert tell(make_rows(models), models) is None
    assert tell([], models) is None
    assert tell(make_unscored(5), models) is None


@pytest.mark.parametrize(
    ("films", "sentence"),
    [
        (1, "1 film is too few to estimate anything without labels; 30 are needed."),
        (29, "29 films are too few to estimate anything without labels; 30 are needed."),
    ],
)
def test_a_handful_of_films_is_not_estimated(
    films: int, sentence: str, models: list[ModelUsed]
) -> None:
    found = tell(make_rows(models, 0, films, labelled=False), models)
    assert found == LabelFreeEstimates(sentence, (), "", "", ())


def test_the_table_adds_up_the_probabilities(models: list[ModelUsed]) -> None:
    rows = make_rows(models, 60, 60, labelled=False)
    found = tell(rows, models)
    assert found is not None
    flagged = [row for row in rows if row.prediction == CLASSES[1]]
    clear = [row for row in rows if row.prediction != CLASSES[1]]
    sums = (
        sum(row.probability for row in rows),
        sum(1 - row.probability for row in flagged),
        sum(row.probability for row in clear),
    )
    for row, expected, n in zip(found.rows, sums, (120, len(flagged), len(clear)), strict=True):
        assert float(row.number) == pytest.approx(expected, abs=0.5)
        low, high = (int(part) for part in row.interval.split(" to "))
        assert low <= expected <= high
        assert row.images == f"n = {n}"
    assert found.lead.startswith(
        "An estimate, not a measurement. It adds up the model's own probabilities of 120 films; "
        "it is right only if"
    )


def test_the_same_sums_on_the_reference_films_stand_beside_what_was_true_there(
    models: list[ModelUsed],
) -> None:
    found = tell(make_rows(models, 20, 20, labelled=False), models)
    assert found is not None
    reference = models[0].card.reference
    assert found.reference_set == "the 624 official test films"
    assert [row.true_count for row in found.rows] == [
        str(reference.pneumonia),
        str(reference.confusion.false_positive),
        str(reference.confusion.false_negative),
    ]
    truth, scores = make_scores(2.8, 234, 390, 3)
    assert len(truth) == 624
    threshold = models[0].threshold
    sums = (
        scores.sum(),
        (1 - scores[scores >= threshold]).sum(),
        scores[scores < threshold].sum(),
    )
    for row, expected in zip(found.rows, sums, strict=True):
        assert int(row.reference_estimate.removeprefix("about ")) == pytest.approx(expected, abs=6)


def test_the_prevalence_is_told_with_its_interval_and_never_alone(
    models: list[ModelUsed],
) -> None:
    rows = make_rows(models, 40, 60, labelled=False)
    found = tell(rows, models)
    assert found is not None
    flagged = sum(row.prediction == CLASSES[1] for row in rows)
    values = models[0].card.reference.metrics
    share = adjusted_prevalence(flagged, 100, values["recall"], values["specificity"])
    assert found.prevalence.startswith(
        f"Estimated from the flags instead: {flagged} of 100 films are flagged."
    )
    assert f"pneumonia in {100 * share.value:.0f} (95 % interval" in found.prevalence
    assert "n = 100) of 100 films. The probabilities alone mean" in found.prevalence


def test_two_estimates_that_disagree_are_said_to(models: list[ModelUsed]) -> None:
    doubtful = [
        msgspec.structs.replace(row, probabilities=(0.42,), prediction="NORMAL")
        for row in make_rows(models, 50, 50, labelled=False)
    ]
    found = tell(doubtful, models)
    assert found is not None
    assert found.prevalence.endswith(
        "The probabilities alone mean 42 of 100, outside that interval: the two ways rest on "
        "different assumptions, and at least one of these does not hold here."
    )
    assert "0 of 100 films are flagged" in found.prevalence
    one = [msgspec.structs.replace(doubtful[0], prediction="PNEUMONIA"), *doubtful[1:]]
    told = tell(one, models)
    assert told is not None
    assert "1 of 100 films is flagged" in told.prevalence


def test_a_model_that_knows_no_specificity_estimates_no_prevalence() -> None:
    models = make_models("cnn")
    card = models[0].card
    test = card.references["test"]
    values = {
        **test.metrics,
        "specificity": msgspec.structs.replace(
            test.metrics["specificity"], value=None, low=None, high=None
        ),
    }
    references = {**card.references, "test": msgspec.structs.replace(test, metrics=values)}
    models = [
        msgspec.structs.replace(
            models[0], card=msgspec.structs.replace(card, references=references)
        )
    ]
    found = tell(make_rows(models, 20, 20, labelled=False), models)
    assert found is not None
    assert found.prevalence.startswith("How many of 100 films show pneumonia cannot be estimated")


def test_the_limits_say_where_calibration_holds_and_where_it_broke(
    models: list[ModelUsed],
) -> None:
    found = tell(make_rows(models, 20, 20, labelled=False), models)
    assert found is not None
    limits = " ".join(found.limits)
    ece = models[0].card.references["test"].metrics["ece"].value
    assert "(validation): on 655 validation films they are off by" in limits
    assert f"On the 624 official test films they are already off by {ece:.3f}" in limits
    assert "calibration breaks where films or patients change" in limits
    assert "The intervals hold chance alone." in limits
    assert "synthetic" not in limits
    assert "unlike" not in limits
    alone = make_models("cnn", splits=("validation",))
    only = tell(make_rows(alone, 20, 20, labelled=False), alone)
    assert only is not None
    assert "already off" not in " ".join(only.limits)


def test_synthetic_and_unlike_films_are_told_first(models: list[ModelUsed]) -> None:
    rows = with_looks(make_rows(models, 30, 30, labelled=False), brighter=3)
    found = tell(rows, models, synthetic=True)
    assert found is not None
    assert found.limits[0] == (
        "These films are synthetic, so the estimates say nothing about patients."
    )
    assert found.limits[1].endswith("(section 5): do not use these estimates.")


def test_copies_are_counted_once_and_said_to_be(models: list[ModelUsed]) -> None:
    rows = make_rows(models, 20, 20, labelled=False)
    copies = [msgspec.structs.replace(row, duplicate_of=row.image) for row in rows]
    found = tell([*rows, *copies], models)
    assert found is not None
    assert "of 40 films, copies counted once;" in found.lead


def test_a_hundred_thousand_films_are_no_trouble(models: list[ModelUsed]) -> None:
    few = make_rows(models, 50, 50, labelled=False)
    found = tell(few * 1000, models)
    assert found is not None
    assert "of 100,000 films;" in found.lead
    assert found.rows[0].images == "n = 100,000"
    assert np.isclose(
        float(found.rows[0].number.replace(",", "")),
        1000 * sum(row.probability for row in few),
        atol=1,
    )
