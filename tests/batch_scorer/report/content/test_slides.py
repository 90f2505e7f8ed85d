"""What the slides say: right for one model and for three, for any labels, and for other data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batch_scorer.metrics.classification import ConfusionMatrix, Estimate
from batch_scorer.report.content.accuracy import METRIC_TITLES
from batch_scorer.report.content.slides import Deck, build_deck
from batch_scorer.report.content.view import RunView
from tests.batch_scorer.report.documents import every_text
from tests.factories import (
    TITLES,
    make_comparison,
    make_manifest,
    make_models,
    make_rows,
    make_unscored,
)

if TYPE_CHECKING:
    from batch_scorer.model.card_sections import Evaluation
    from batch_scorer.results.schema import ModelUsed


def tell(models: list[ModelUsed], rows: list[Any] | None = None, **changes: Any) -> Deck:
    rows = make_rows(models) if rows is None else rows
    return build_deck(RunView(make_manifest(rows, models, **changes), rows))


def with_card(model: ModelUsed, **changes: Any) -> ModelUsed:
    return msgspec.structs.replace(model, card=msgspec.structs.replace(model.card, **changes))


def with_training(model: ModelUsed, **changes: Any) -> ModelUsed:
    training = msgspec.structs.replace(model.card.training, **changes)
    return with_card(model, training=training)


def with_reference(model: ModelUsed, **changes: Any) -> ModelUsed:
    reference: Evaluation = msgspec.structs.replace(model.card.reference, **changes)
    return with_card(model, references={**model.card.references, "test": reference})


@pytest.fixture(scope="module")
def three() -> list[ModelUsed]:
    return make_models("cnn", "mlp", "vgg16")


def test_the_best_has_the_highest_auc_and_the_others_are_the_appendix(three) -> None:
    deck = tell(three)
    aucs = {model.title: model.card.reference.metrics["auc"].value for model in deck.models}
    assert deck.best.title == max(aucs, key=lambda title: aucs[title])
    assert {deck.best.title, *(model.title for model in deck.others)} == set(TITLES.values())
    assert deck.best_description.startswith(
        f"Of the three, {deck.best.title} has the highest AUC on the "
    )
    assert "95 % interval" in deck.best_description


def test_the_best_is_not_set_above_a_model_that_cannot_be_told_apart_from_it() -> None:
    apart = tell(make_models("cnn", "mlp", comparison=make_comparison(cnn_mlp=0.04)))
    tied = tell(make_models("cnn", "mlp", comparison=make_comparison(cnn_mlp=0.05)))
    assert "told apart" not in apart.best_description
    assert tied.best_description.endswith(" Multilayer perceptron cannot be told apart from it.")


def test_where_another_model_decides_it_is_named() -> None:
    deck = tell(make_models("mlp", "cnn"))
    assert deck.best.title == "Convolutional network"
    assert deck.best_description.endswith(" In this run Multilayer perceptron decides.")


def test_models_measured_on_different_films_have_no_best_and_no_published_figures() -> None:
    models = [*make_models("mlp"), *make_models("cnn", splits=("validation",))]
    deck = tell(models)
    assert deck.best is deck.models[0]
    assert "on different films, so none is called the best" in deck.best_description
    assert deck.published == ()


def test_published_figures_stand_in_the_columns_of_the_table(three) -> None:
    published = {
        row.name: dict(zip(METRIC_TITLES, row.cells, strict=True)) for row in tell(three).published
    }
    assert published["First notebook, VGG16"]["accuracy"] == "0.92"
    assert published["First notebook, VGG16"]["auc"] == ""
    assert published["Kermany et al. 2018"]["auc"] == "0.968"
    other = [with_training(model, images={"train NORMAL": 5}) for model in three]
    assert tell(other).published == ()


def test_one_model_and_more_are_counted() -> None:
    one, two = tell(make_models("cnn")), tell(make_models("cnn", "mlp"))
    assert one.networks == "One network looks at every film"
    assert two.networks.startswith("Two networks look at every film")
    assert one.findings.startswith("The model Convolutional network finds ")
    assert two.findings.startswith("The two models find ")
    assert re.search(
        r"finds \d+ of 100 children with pneumonia, and wrongly flags \d+ of", one.findings
    )
    assert one.others == ()


def test_more_models_than_fit_are_named_as_such(three) -> None:
    fourth = with_card(three[0], name="fourth", title="Fourth")
    deck = tell([*three, fourth])
    assert len(deck.models) == 3
    assert deck.omitted_models == "The slides show the first three of 4 models; report.pdf all."
    assert tell(three).omitted_models == ""


def test_the_class_balance_is_that_of_the_card(three) -> None:
    balance = tell(three).balance
    assert (
        balance.title
        == "Of 100 films that the model Convolutional network learned from, 74 show pneumonia"
    )
    assert [(bar.part, bar.normal, bar.pneumonia) for bar in balance.classes] == [
        ("training", 1180, 3397),
        ("validation", 169, 486),
        ("test", 234, 390),
    ]
    assert "training 1,180 normal and 3,397 with pneumonia" in balance.alt


@pytest.mark.parametrize("films", [{}, {"train NORMAL": 0, "train PNEUMONIA": 0}, {"all": 9}])
def test_a_card_that_does_not_tell_its_films_has_no_balance(three, films) -> None:
    balance = tell([with_training(three[0], images=films)]).balance
    assert balance.classes == ()
    assert balance.title == "Which films the model learned from, its file does not say"


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        ("cxr train DATA -o RUN", True),
        ("cxr train DATA -o RUN --set augmentation=0.5", True),
        ("cxr train DATA -o RUN --set augmentation=0.0", False),
        ("cxr train DATA -o RUN --set augmentation=0 --seed 1", False),
        ("python mine.py", False),
    ],
)
def test_only_a_model_whose_films_were_changed_is_said_to_have_learned_so(
    three, command, changed
) -> None:
    deck = tell([with_training(three[0], command=command)])
    assert (deck.augmented, deck.not_augmented) == (
        ("Convolutional network", "") if changed else ("", "Convolutional network")
    )


@pytest.mark.parametrize(
    ("confusion", "told"),
    [
        (
            ConfusionMatrix(8, 2, 9, 1),
            "missed 1 of 9 films with pneumonia and wrongly flagged 2 of 11 normal ones",
        ),
        (ConfusionMatrix(8, 0, 0, 1), "missed 1 of 9 films with pneumonia"),
        (ConfusionMatrix(0, 2, 9, 0), "wrongly flagged 2 of 11 normal ones"),
    ],
)
def test_errors_are_counted_where_there_are_films(three, confusion, told) -> None:
    [model] = tell([with_reference(three[0], confusion=confusion)]).models
    assert model.errors == f"The model Convolutional network {told}"


def test_without_films_errors_are_not_known(three) -> None:
    undefined = Estimate(None, None, None, 0)
    card = with_reference(
        three[0],
        confusion=ConfusionMatrix(0, 0, 0, 0),
        metrics=dict.fromkeys(three[0].card.reference.metrics, undefined),
    )
    deck = tell([card])
    assert deck.models[0].errors.endswith("is not known: no film was counted")
    assert deck.findings.endswith("cannot be said in full: a class of films is missing")
    assert deck.best_description == "AUC on the official test films: not defined (n = 0)."


@pytest.mark.parametrize(
    ("best", "told"),
    [
        (12, "was best after round 12 of 20, and was kept so"),
        (20, "was best after the last of 20 rounds"),
        (0, "went through its training films 20 times"),
    ],
)
def test_the_round_that_was_kept_is_named(three, best, told) -> None:
    [model] = tell([with_training(three[0], best_epoch=best)]).models
    assert model.learning == f"The model Convolutional network {told}"


@pytest.mark.parametrize(
    ("rows_of", "told"),
    [
        (lambda models: [], "No film was scored, so this batch tells nothing of the models"),
        (lambda models: make_unscored(2), "No film was scored, so this batch tells nothing"),
        (lambda models: make_rows(models, labelled=False), "This batch has no labels, so its"),
        (lambda models: make_rows(models, 3, 0), " of 3 labelled normal"),
        (lambda models: make_rows(models, 0, 1), " of 1 labelled pneumonia"),
        (make_rows, "labelled pneumonia and "),
    ],
    ids=["nothing", "all failed", "no labels", "normal only", "one film", "labels"],
)
@pytest.mark.parametrize("number", [1, 3])
def test_what_a_batch_tells_has_no_hole(three, rows_of, told, number) -> None:
    models = three[:number]
    deck = tell(models, rows_of(models))
    assert told in deck.batch
    for slip in ("None", "nan", "  ", "..", "()", "{", "}", " 1 films"):
        assert slip not in every_text(deck)


def test_an_unknown_model_has_no_drawing_of_its_own(three) -> None:
    kinds = [model.kind for model in tell([with_card(three[0], name="mine"), *three[1:]]).models]
    assert kinds == ["other", "dense", "deep"]
