"""Every sentence on whether a batch looks like the films that the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batch_scorer.report.content.domain_shift import DriftFacts, describe_drift
from batch_scorer.results.drift import measure_drift
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


def rows(films: int, normal_share: float = 0.26, **looks: float) -> list[Score]:
    normal = round(normal_share * films)
    return with_looks(make_rows(make_models("cnn"), normal, films - normal, seed=3), **looks)


def tell(found: list[Score], card: Any = CARD) -> DriftFacts:
    return describe_drift(measure_drift(found, card), card)


def test_a_batch_that_looks_alike_has_no_warning_and_no_promise() -> None:
    facts = tell(rows(300))
    assert (facts.warning, facts.short_warning, facts.predictions) == ("", "", "")
    assert facts.sentences[0] == (
        "By what was measured, the 300 films of this batch look like those that the model learned "
        "from."
    )
    assert facts.sentences[1].startswith("Of 100 films of this batch 2 (95 % interval 0 to 5, n")
    assert facts.sentences[2].startswith(
        "Looking alike is no proof that the answers are right: from validation films to the "
        "official test films, of the same data set, specificity went from 0."
    )
    assert [row.level for row in facts.rows] == ["alike"] * 4


def test_a_batch_that_looks_unlike_is_warned_of_on_page_one_and_here() -> None:
    facts = tell(rows(300, stranger=4, brighter=1.5))
    assert facts.warning == (
        "Warning: this batch looks unlike the films that the model learned from."
    )
    assert facts.short_warning.startswith(
        f"{facts.warning[:-1]} (section 5). Do not act on its answers"
    )
    assert facts.sentences[0].startswith(
        "This batch looks unlike the films that the model learned from: its films are stranger "
        "than the training films, they are brighter or darker. How good the model is on such films "
        "is not known"
    )
    assert facts.rows[0].p_value == "under 0.001"


def test_a_batch_in_between_is_a_caution_and_no_warning() -> None:
    facts = tell(rows(300, brighter=0.6))
    assert facts.short_warning == ""
    assert facts.sentences[0] == (
        "This batch looks somewhat different from the films that the model learned from: they are "
        "brighter or darker. Take the figures of section 3 with caution."
    )


def test_nothing_but_images_of_another_kind_are_unlike() -> None:
    strange = [
        msgspec.structs.replace(row, atypical=True, typicality=0.0)
        for row in make_unscored(40, status="rejected", reason="not_radiograph")
    ]
    facts = tell(strange)
    assert "many of its films are strange to the model" in facts.sentences[0]
    assert facts.short_warning
    assert facts.histogram is None
    assert facts.histogram_alt == ""


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([], "No film was scored, so there is nothing to compare."),
        (make_unscored(3), "No film was scored, so there is nothing to compare."),
        (
            rows(1),
            "1 film is too few to tell whether this batch looks like the films that the model "
            "learned from; 30 are needed.",
        ),
        (
            rows(29),
            "29 films are too few to tell whether this batch looks like the films that the model "
            "learned from; 30 are needed.",
        ),
    ],
    ids=["nothing found", "all failed", "one film", "29 films"],
)
def test_too_little_is_said_to_be_too_little(found: list[Score], sentence: str) -> None:
    facts = tell(found)
    assert facts.sentences[0] == sentence
    assert facts.warning == ""
    assert facts.rows == ()


def test_a_few_films_are_counted_one_by_one() -> None:
    one = [msgspec.structs.replace(rows(1)[0], atypical=False)]
    assert tell(one).sentences[1] == (
        "0 of 1 film that could be judged look strange to the model: atypical, or not scored for "
        "that reason."
    )
    two = [msgspec.structs.replace(row, atypical=not i) for i, row in enumerate(rows(20))]
    assert tell(two).sentences[1].startswith("1 of 20 films that could be judged looks strange")


def test_rows_without_statistics_leave_it_open() -> None:
    plain = make_rows(make_models("cnn"), 30, 90)
    facts = tell(plain, make_card("cnn"))
    assert facts.sentences[0] == (
        "The model file or these rows lack the numbers, so whether this batch looks like the "
        "training films is not known."
    )
    assert [row.quantity for row in facts.rows] == ["Probability of pneumonia"]


def test_another_spread_of_answers_is_explained_and_not_warned_of() -> None:
    facts = tell(rows(300, normal_share=0.95))
    assert facts.short_warning == ""
    assert facts.rows[-1].level == "unlike"
    assert facts.predictions.startswith(
        "The probabilities spread otherwise than on validation films, 74 of 100 of which show "
        "pneumonia."
    )
    assert "cannot tell which" in facts.predictions


def test_a_card_without_test_films_says_only_that_likeness_is_no_proof() -> None:
    card = make_card("cnn", splits=("validation",), typicality=make_typicality())
    assert "Looking alike is no proof that the answers are right." in tell(rows(60), card).sentences


def test_the_histogram_and_its_text_have_the_same_numbers() -> None:
    found = rows(200)
    facts = tell(found)
    assert facts.histogram is not None
    low = sum(row.probability < 0.1 for row in found) / 200
    high = sum(row.probability >= 0.9 for row in found) / 200
    assert facts.histogram.batch[0] == pytest.approx(low)
    assert (
        f"Of 200 films of this batch {100 * low:.0f} of 100 lie below 0.1 and {100 * high:.0f} at "
        "0.9 or above"
    ) in facts.histogram_alt
    assert facts.histogram_title == (
        "Probabilities of this batch (200 films) against the 655 validation films"
    )
    assert tell(rows(29)).histogram is None


def test_certainty_is_not_claimed() -> None:
    sure = [msgspec.structs.replace(row, probabilities=(0.99999,)) for row in rows(40)]
    assert tell(sure).rows[-1].batch == "over 0.99"
