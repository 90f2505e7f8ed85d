"""What a flag means: the sentences, for the reference films and for a labelled batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.metrics import classification
from batch_scorer.metrics.classification import Estimate
from batch_scorer.metrics.prevalence import predictive_values
from batch_scorer.report.content.predictive_values import (
    PredictiveValues,
    describe_predictive_values,
)
from batch_scorer.report.content.view import RunView
from tests.factories import make_manifest, make_models, make_rows

if TYPE_CHECKING:
    from batch_scorer.results.schema import ModelUsed

UNDEFINED = Estimate(None, None, None, 0)


def tell(normal: int, pneumonia: int, models: list[ModelUsed], **changes: Any) -> PredictiveValues:
    rows = make_rows(models, normal, pneumonia)
    return describe_predictive_values(RunView(make_manifest(rows, models, **changes), rows))


def with_reference(model: ModelUsed, recall: Estimate, specificity: Estimate) -> ModelUsed:
    test = model.card.references["test"]
    values = {**test.metrics, "recall": recall, "specificity": specificity}
    reference = msgspec.structs.replace(test, metrics=values)
    references = {**model.card.references, "test": reference}
    return msgspec.structs.replace(
        model, card=msgspec.structs.replace(model.card, references=references)
    )


def test_the_table_is_that_of_bayes_at_four_prevalences() -> None:
    recall, specificity = (
        classification.estimate_proportion(382, 390),
        classification.estimate_proportion(184, 234),
    )
    models = [with_reference(make_models("cnn")[0], recall, specificity)]
    meaning = tell(0, 0, models).tables[0]
    assert [row.ill_per_100 for row in meaning.rows] == [5, 10, 25, 60]
    assert [row.ill_per_100_flagged for row in meaning.rows] == [19, 34, 60, 87]
    assert [row.flagged for row in meaning.rows] == ["252", "290", "405", "673"]
    for row in meaning.rows:
        right, clear = predictive_values(recall, specificity, row.ill_per_100 / 100)
        assert row.ppv.value == f"{100 * right.value:.0f}"
        assert row.ill_per_1000_not_flagged.value == f"{1000 * (1 - clear.value):.0f}"
        assert row.ppv.n == row.ill_per_1000_not_flagged.n == "n = 624"
        low, high = (int(part) for part in row.ppv.interval.split(" to "))
        assert low <= 100 * right.low
        assert 100 * right.high <= high


def test_the_sentences_say_it_in_people() -> None:
    recall, specificity = (
        classification.estimate_proportion(382, 390),
        classification.estimate_proportion(184, 234),
    )
    models = [with_reference(make_models("cnn")[0], recall, specificity)]
    clinic = tell(0, 0, models)
    assert clinic.sentences[0].startswith(
        "The same flag means less where pneumonia is rare. Where 5 of 100 patients have it, "
        "19 (95 % interval 15 to 24, n = 624) of 100 flagged have it and 81 were flagged wrongly; "
        "where 60 of 100 have it, 87 (95 % interval 84 to 90, n = 624) do."
    )
    assert "Of the official test films 390 of 624 films show pneumonia" in clinic.sentences[1]
    assert "not known before it was measured on them" in clinic.sentences[1]
    assert clinic.tables[0].alt == (
        "Of 100 flagged children, with pneumonia: 19 where 5 of 100 children have it; 34 where 10 "
        "of 100 children have it; 60 where 25 of 100 children have it; 87 where 60 of 100 children "
        "have it. The others were flagged wrongly."
    )


def test_a_labelled_batch_of_both_classes_has_its_own_table() -> None:
    models = make_models("cnn", "mlp")
    titles = [meaning.title for meaning in tell(40, 50, models).tables]
    assert titles == ["By the official test films", "By the labelled films of this batch"]
    for normal, pneumonia in ((0, 9), (9, 0), (0, 0)):
        assert len(tell(normal, pneumonia, models).tables) == 1
    assert len(tell(40, 50, models, synthetic=True).tables) == 1


def test_validation_films_are_called_so() -> None:
    models = make_models("cnn", splits=("validation",))
    clinic = tell(0, 0, models)
    assert clinic.tables[0].title == "By the validation films"
    assert "Of the validation films 486 of 655 films" in clinic.sentences[1]


def test_reference_films_of_one_class_define_nothing() -> None:
    models = [
        with_reference(make_models("cnn")[0], UNDEFINED, classification.estimate_proportion(9, 10))
    ]
    clinic = tell(0, 0, models)
    assert clinic.tables[0].rows == ()
    assert clinic.tables[0].missing_reason.startswith("Not defined: it needs films with pneumonia")
    assert "a class is missing among them" in clinic.sentences[0]
