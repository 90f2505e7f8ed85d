"""Sensitivity and specificity as people, and what the probabilities are worth."""

from __future__ import annotations

import msgspec
import pytest

from batch_scorer.metrics import classification
from batch_scorer.metrics.classification import Curve
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.reliability import (
    describe_batch_reliability,
    describe_reliability,
    make_batch_icon_arrays,
    make_icon_arrays,
)
from batch_scorer.report.content.view import RunView
from tests.factories import make_card, make_manifest, make_models, make_rows


def test_the_crowds_have_the_numbers_of_the_card() -> None:
    card = make_card("cnn")
    people = make_icon_arrays(card)
    values = card.reference.metrics
    assert people is not None
    assert people.detected == round(100 * values["recall"].value)
    assert people.false_alarms == round(100 * (1 - values["specificity"].value))
    assert people.detected_title == (
        f"100 children with pneumonia: {people.detected} found, {100 - people.detected} missed"
    )
    assert people.false_alarms_title == (
        f"100 healthy children: {people.false_alarms} wrongly flagged, "
        f"{100 - people.false_alarms} not"
    )
    assert (
        people.alt
        == f"Two crowds of a hundred. {people.detected_title}. {people.false_alarms_title}."
    )
    assert people.title.endswith("Counted on official test films")


@pytest.mark.parametrize(("normal", "pneumonia"), [(0, 150), (150, 0), (0, 0)])
def test_a_batch_without_both_classes_has_no_crowds_and_no_reliability(
    normal: int, pneumonia: int
) -> None:
    models = make_models("cnn")
    rows = make_rows(models, normal, pneumonia)
    manifest = make_manifest(rows, models)
    assert make_batch_icon_arrays(manifest) is None
    assert describe_batch_reliability(RunView(manifest, rows)) is None


def test_a_labelled_batch_is_counted_as_films() -> None:
    models = make_models("cnn", "mlp")
    rows = make_rows(models, 40, 60)
    manifest = make_manifest(rows, models)
    people = make_batch_icon_arrays(manifest)
    assert people is not None
    assert people.detected_title.startswith("100 films with pneumonia: ")
    worth = describe_batch_reliability(RunView(manifest, rows))
    assert worth is not None
    assert [line.label for line in worth.curves] == [m.card.title for m in models]
    truth = [CLASSES.index(row.label) for row in rows]
    answers = [row.probabilities[1] for row in rows]
    assert worth.curves[1].curve == classification.reliability_points(truth, answers)
    assert worth.alt.startswith("Reliability on 100 labelled films of this batch.")


def test_a_handful_of_labels_draws_no_reliability() -> None:
    models = make_models("cnn")
    rows = make_rows(models, 49, 50)
    manifest = make_manifest(rows, models)
    assert describe_batch_reliability(RunView(manifest, rows)) is None
    assert make_batch_icon_arrays(manifest) is not None


def test_reliability_says_how_far_off_each_model_is_here_and_there() -> None:
    cards = [make_card("cnn"), make_card("mlp")]
    worth = describe_reliability(cards)
    test, validation = (cards[0].references[name].metrics["ece"] for name in ("test", "validation"))
    assert len(worth.sentences) == 3
    assert worth.sentences[1].startswith(f"Convolutional network: ECE {test.value:.3f} (95 %")
    assert f"; {validation.value:.3f} (95 %" in worth.sentences[1]
    assert worth.sentences[1].endswith("on validation films, where it was calibrated.")
    assert "furthest off where it says" in worth.alt


def test_a_card_of_validation_films_only_says_that_it_was_chosen_on_them() -> None:
    worth = describe_reliability([make_card("cnn", splits=("validation",))])
    assert worth.sentences[1].endswith("on which its threshold was chosen too.")


def test_a_card_without_points_has_no_line() -> None:
    card = make_card("cnn")
    bare = msgspec.structs.replace(card.references["test"], reliability=Curve([], []))
    worth = describe_reliability(
        [msgspec.structs.replace(card, references={**card.references, "test": bare})]
    )
    assert worth.curves == ()
    assert "Convolutional network: no points." in worth.alt
