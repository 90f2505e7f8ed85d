"""The sentences are right for one and for many, for nothing at all, and for missing labels."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from batch_scorer.model.card_sections import Precision
from batch_scorer.report.charts.performance import draw_confusion
from batch_scorer.report.content.gallery import COLUMNS_PER_ROW
from batch_scorer.report.content.predictions import MAX_PREDICTION_ROWS, MAX_UNSCORED_ROWS
from batch_scorer.report.content.report import ReportFacts, build_report_facts
from batch_scorer.report.content.view import RunView
from tests.batch_scorer.report.documents import every_text
from tests.factories import (
    make_band,
    make_comparison,
    make_etiology,
    make_external,
    make_manifest,
    make_models,
    make_rows,
    make_typicality,
    make_unscored,
    with_looks,
)


def tell(rows: list[Any], models: list[Any], **changes: Any) -> ReportFacts:
    return build_report_facts(RunView(make_manifest(rows, models, **changes), rows))


@pytest.fixture(scope="module")
def three() -> list[Any]:
    return make_models("cnn", "mlp", "vgg16")


def test_page_one_has_the_three_counts_of_the_manifest(three: list[Any]) -> None:
    rows = make_rows(three) + make_unscored(3)
    manifest = make_manifest(rows, three)
    facts = build_report_facts(RunView(manifest, rows))
    assert [tile.number for tile in facts.summary.tiles] == [
        str(manifest.flagged),
        str(manifest.not_flagged),
        "3",
    ]
    assert facts.summary.headline.startswith(f"{manifest.flagged} of 21 scored films were flagged")
    assert facts.summary.scored_files == "24 files found in “films”."
    assert facts.summary.scored_when == "23 November 2026, 20:17 UTC, in 9 seconds."
    assert "Multilayer perceptron and VGG16 give a second opinion." in facts.summary.scored_by


def test_page_one_counts_what_was_flagged_rightly_and_wrongly(three: list[Any]) -> None:
    confusion = make_manifest(make_rows(three), three).metrics[0].confusion
    found, alarms = confusion.true_positive, confusion.false_positive
    ill, well = found + confusion.false_negative, alarms + confusion.true_negative
    assert (
        f"On the {ill + well} labelled films of this batch it flagged {found} of {ill} with "
        f"pneumonia and wrongly flagged {alarms} of {well} normal films (section 3)."
    ) in tell(make_rows(three), three).summary.trust
    assert (
        "On the 1 labelled film of this batch it wrongly flagged 0 of 1 normal film (section 3)."
        in (tell(make_rows(three, 1, 0), three).summary.trust)
    )


def test_trust_names_the_reference_films_and_the_fall_on_other_hospitals(three: list[Any]) -> None:
    trust = " ".join(tell(make_rows(three), three).summary.trust)
    assert "On the official test films" in trust
    assert "n = 390" in trust
    assert "n = 234" in trust
    assert "from AUC 0.95 to 0.54 (Xin et al. 2021)" in trust


def test_a_card_without_test_films_is_quoted_as_validation_and_as_too_good() -> None:
    models = make_models("cnn", splits=("validation",))
    facts = tell(make_rows(models), models)
    assert facts.reference.title == "Reference figures from the model file (validation films)"
    assert "likely to be too good" in facts.reference.about
    assert "official test" not in every_text(facts)


def test_models_with_different_reference_films_each_name_theirs() -> None:
    models = [*make_models("cnn"), *make_models("mlp", splits=("validation",))]
    facts = tell(make_rows(models), models)
    assert [row.note for row in facts.reference.rows] == [
        "on official test films, 624 films, 390 with pneumonia and 234 normal",
        "on validation films, 655 films, 486 with pneumonia and 169 normal",
    ]


def test_numbers_in_the_table_are_those_of_the_card(three: list[Any]) -> None:
    facts = tell(make_rows(three), three)
    for row, model in zip(facts.reference.rows, three, strict=True):
        auc = model.card.reference.metrics["auc"]
        assert row.cells[-1].value == f"{auc.value:.3f}"
        assert row.cells[-1].interval == f"{auc.low:.3f} to {auc.high:.3f}"
        assert row.cells[-1].n == "n = 624"


def test_without_labels_the_batch_has_no_figures() -> None:
    models = make_models("cnn")
    facts = tell(make_rows(models, labelled=False), models)
    assert facts.batch is None
    assert "have no labels" in facts.no_batch_reason
    assert not facts.listing.labelled


@pytest.mark.parametrize(
    ("normal", "pneumonia", "sentence"),
    [
        (0, 4, "No film here is labelled normal, so how many it wrongly flags"),
        (4, 0, "No film here is labelled pneumonia, so how many it finds cannot be said."),
    ],
)
def test_labels_of_one_class_leave_metrics_undefined(
    normal: int, pneumonia: int, sentence: str
) -> None:
    models = make_models("cnn")
    facts = tell(make_rows(models, normal, pneumonia), models)
    assert facts.batch is not None
    assert sentence in " ".join(facts.batch.findings)
    assert facts.batch.roc == ()
    assert facts.batch.rows[0].cells[-1].value == "not defined"
    assert "None" not in every_text(facts)
    assert "nan" not in every_text(facts)


def test_one_film_is_one_film() -> None:
    models = make_models("cnn")
    rows = [msgspec.structs.replace(make_rows(models, 0, 1)[0], prediction="PNEUMONIA")]
    summary = tell(rows, models).summary
    assert summary.headline == "1 of 1 scored film was flagged as possible pneumonia."
    assert summary.scored_files == "1 file found in “films”."
    assert summary.next_steps[0].startswith("Have a clinician read the flagged film now.")
    clear = [msgspec.structs.replace(rows[0], prediction="NORMAL")]
    headline = tell(clear, models).summary.headline
    assert headline == "0 of 1 scored film was flagged as possible pneumonia."


@pytest.mark.parametrize(
    ("atypical", "films", "sentence"),
    [
        (0, 1, "0 of 1 scored film looks unlike most films"),
        (1, 30, "1 of 30 scored films looks unlike most films"),
        (2, 30, "2 of 30 scored films look unlike most films"),
        (0, 30, "0 of 30 scored films look unlike most films"),
    ],
)
def test_films_look_unlike_the_others_in_the_right_number(atypical, films, sentence) -> None:
    models = make_models("cnn", typicality=make_typicality())
    rows = make_rows(models, 0, films)
    manifest = msgspec.structs.replace(make_manifest(rows, models), atypical=atypical)
    assert build_report_facts(RunView(manifest, rows)).summary.atypical.startswith(sentence)


def test_where_nothing_was_scored_no_answer_is_called_uncertain_or_atypical() -> None:
    models = make_models("cnn", band=make_band(), typicality=make_typicality())
    rows = make_unscored(3)
    manifest = msgspec.structs.replace(make_manifest(rows, models), undecided=0, atypical=0)
    summary = build_report_facts(RunView(manifest, rows)).summary
    assert (summary.undecided, summary.atypical) == ("", "")


def test_nothing_found_and_nothing_scored_are_said_plainly() -> None:
    models = make_models("cnn")
    empty = tell([], models)
    assert empty.summary.headline == "No file was found to score."
    assert empty.summary.next_steps[0].startswith("Check the folder")
    assert empty.gallery == ()
    failed = tell(make_unscored(1), models)
    assert failed.summary.headline == "No film could be scored."
    assert failed.unscored.about.startswith("1 of 1 file was not scored: 1 could not be read.")
    assert failed.no_batch_reason == "No film was scored, so there is nothing to measure."


def test_files_not_scored_are_counted_named_and_capped() -> None:
    models = make_models("cnn")
    rows = (
        make_rows(models)
        + make_unscored(MAX_UNSCORED_ROWS + 7)
        + make_unscored(1, status="rejected", reason="too_small")
    )
    gaps = tell(rows, models).unscored
    assert [(reason.label, reason.files) for reason in gaps.reasons] == [
        ("Ends too early", "207"),
        ("Too few pixels to judge", "1"),
    ]
    assert len(gaps.files) == MAX_UNSCORED_ROWS
    assert gaps.rest == "The first 200 of 208 files are named here; continued in predictions.csv."


def test_a_long_list_of_predictions_is_continued_in_the_csv() -> None:
    models = make_models("cnn")
    listing = tell(make_rows(models, MAX_PREDICTION_ROWS, 1, labelled=False), models).listing
    assert len(listing.rows) == MAX_PREDICTION_ROWS
    assert (
        listing.rest
        == "The first 2,000 of 2,001 files are listed here; continued in predictions.csv."
    )


def test_an_unknown_reason_is_shown_as_it_is() -> None:
    models = make_models("cnn")
    assert tell(make_unscored(1, reason="new_code"), models).unscored.reasons[0].label == "new_code"


def test_each_film_of_the_gallery_appears_once_and_no_copy(three: list[Any]) -> None:
    rows = make_rows(three)
    rows.append(msgspec.structs.replace(rows[0], image="copy.jpg", duplicate_of=rows[0].image))
    facts = tell(rows, three)
    names = [film.name for row in facts.gallery for part in row for film in part.images]
    assert len(names) == len(set(names))
    assert "copy.jpg" not in names
    assert all(sum(part.column_span for part in row) <= COLUMNS_PER_ROW for row in facts.gallery)
    assert any(row.prediction.endswith(", copy") for row in facts.listing.rows)


def test_synthetic_films_are_called_so(three: list[Any]) -> None:
    facts = tell(make_rows(three), three, synthetic=True)
    assert facts.summary.synthetic.startswith("These films are synthetic")
    assert facts.batch is not None
    assert "say nothing about patients" in facts.batch.about
    assert facts.summary.next_about
    assert tell(make_rows(three), three).summary.synthetic == ""


def test_patients_do_not_appear() -> None:
    models = make_models("cnn")
    rows = [msgspec.structs.replace(row, patient="PATIENT-77") for row in make_rows(models)]
    assert "PATIENT-77" not in every_text(tell(rows, models))


def test_only_the_published_data_set_gets_its_story() -> None:
    models = make_models("cnn")
    assert tell(make_rows(models), models).method.uses_kermany
    card = models[0].card
    training = msgspec.structs.replace(
        card.training, images={"train NORMAL": 5, "train PNEUMONIA": 6}
    )
    other = [
        msgspec.structs.replace(models[0], card=msgspec.structs.replace(card, training=training))
    ]
    facts = tell(make_rows(other), other)
    assert not facts.method.uses_kermany
    assert "children" not in every_text(facts)
    assert "Of 100 people with pneumonia" in every_text(facts)


def test_uncertain_answers_are_named_on_page_one_in_the_gallery_and_in_the_list() -> None:
    models = make_models("cnn", "mlp", band=make_band())
    rows = make_rows(models, 40, 50)
    manifest = make_manifest(rows, models)
    facts = build_report_facts(RunView(manifest, rows))
    assert facts.summary.undecided.startswith(
        f"{manifest.undecided} of 90 scored films, flagged or not: the probability lies between "
        "0.300 and 0.600"
    )
    listed = [row.prediction for row in facts.listing.rows if "uncertain" in row.prediction]
    assert len(listed) == manifest.undecided == sum(0.3 <= row.probability < 0.6 for row in rows)
    assert {"Flagged, uncertain", "Clear, uncertain"} <= set(listed)
    assert "From 0.300 up to 0.600 its answer is uncertain." in facts.listing.about
    parts = [part for row in facts.gallery for part in row if part.title.startswith("Closest")]
    assert all(
        "uncertain: in the band around the threshold" in f.note for p in parts for f in p.images
    )
    assert parts


def test_without_a_band_nothing_is_called_uncertain() -> None:
    models = make_models("cnn")
    assert "uncertain" not in every_text(tell(make_rows(models), models)).lower()


def test_films_from_elsewhere_are_told_of_every_model_that_was_tried_on_them() -> None:
    models = make_models("cnn", "mlp", external=[make_external()])
    facts = tell(make_rows(models), models)
    assert len(facts.external) == 2
    assert facts.external[0] == (
        "Of 600 normal films of “adults elsewhere” the model Convolutional network wrongly flags "
        "132; of 100 that is 22 (95 % interval 18 to 26, n = 600). No model was trained on them."
    )
    alone = make_models("cnn")
    assert tell(make_rows(alone), alone).external == ()


def test_the_models_of_one_set_are_compared() -> None:
    models = make_models("cnn", "mlp", comparison=make_comparison(cnn_mlp=0.01))
    comparison = tell(make_rows(models), models).comparison
    assert comparison is not None
    assert "Convolutional network is better than Multilayer perceptron" in comparison.sentence


def test_a_model_file_in_a_smaller_format_says_what_that_changed() -> None:
    float32 = make_models("vgg16")
    assert "computes its convolutions" not in every_text(tell(make_rows(float32), float32))
    precision = Precision("int8", 654, 0.9946, -0.0002, 0.02, ["a.png"], "200 training films")
    int8 = make_models("vgg16", precision=precision)
    text = every_text(tell(make_rows(int8), int8))
    assert "in int8, its reference figures are those of the float32 network" in text
    assert "on 654 validation films that changes the AUC by −0.0002 and 1 label." in text
    assert "a.png" not in text


def test_the_alternative_text_of_the_matrix_has_the_numbers_of_the_picture() -> None:
    models = make_models("cnn")
    facts = tell(make_rows(models), models)
    confusion = facts.reference.confusion
    picture = draw_confusion(confusion)
    for number in (confusion.true_positive, confusion.false_positive, confusion.true_negative):
        assert f">{number}<" in picture
        assert f" {number} " in facts.reference.confusion_alt


def test_a_batch_unlike_the_training_films_is_warned_of_on_page_one() -> None:
    models = make_models("cnn", typicality=make_typicality())
    rows = make_rows(models, 30, 40)
    assert tell(with_looks(rows), models).summary.warning == ""
    unlike = tell(with_looks(rows, brighter=3), models)
    assert unlike.summary.warning == unlike.drift.short_warning
    assert unlike.summary.warning.startswith("Warning: this batch looks unlike the films")
    assert "(section 5)" in unlike.summary.warning


def test_a_page_that_warns_does_not_ask_for_trust() -> None:
    models = make_models("cnn", typicality=make_typicality())
    rows = make_rows(models, 30, 40)
    alike, unlike = (tell(with_looks(rows, brighter=by), models).summary for by in (0, 3))
    assert alike.trust[0].startswith("Trust it to choose which films are read first")
    assert alike.next_steps[0].startswith("Have a clinician read the")
    assert unlike.trust[0] == (
        "Do not trust it on films like these yet, and never to decide who is ill."
    )
    assert unlike.next_steps[0].startswith("Read every film as if there were no model")
    assert not any("flagged" in step for step in unlike.next_steps)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "rows_of",
    [
        lambda models: [],
        lambda models: make_unscored(1),
        lambda models: make_rows(models, 0, 1),
        lambda models: make_rows(models, 0, 1, labelled=False),
        lambda models: make_rows(models, 40, 60, labelled=False),
        lambda models: make_rows(models, 4, 0),
        lambda models: make_rows(models, 40, 60) * 20,
    ],
    ids=["nothing", "all failed", "one film", "one unlabelled", "no labels", "one class", "many"],
)
def test_no_text_has_a_hole_or_a_slip(rows_of: Any, number: int) -> None:
    models = make_models(*("cnn", "mlp", "vgg16")[:number], typicality=make_typicality())
    text = every_text(tell(rows_of(models), models))
    for slip in ("None", "nan", "inf ", " 1 films", " 1 files", "  ", " .", "..", "()", "{", "}"):
        assert slip not in text
    assert not re.search(r"(?<![\d,.])1 (?:patients|labels|models|copies)\b", text)


def test_atypical_films_and_the_second_answer_are_told_where_the_model_has_them() -> None:
    models = make_models("cnn", typicality=make_typicality(), etiology=make_etiology())
    rows = [
        msgspec.structs.replace(row, atypical=index % 3 == 0, typicality=0.1)
        for index, row in enumerate(make_rows(models, 10, 20))
    ]
    manifest = msgspec.structs.replace(
        make_manifest(rows, models), atypical=10, reasons={"not_radiograph": 2}
    )
    facts = build_report_facts(RunView(manifest, rows))
    assert facts.summary.atypical.startswith("10 of 30 scored films look unlike")
    assert "2 files too far from them to be judged are listed" in facts.summary.atypical
    assert sum("atypical" in row.prediction for row in facts.listing.rows) == 10
    assert len(facts.etiology) == 1
    assert "Convolutional network: of 100 test films with pneumonia" in facts.etiology[0]
    plain = tell(make_rows(make_models("cnn")), make_models("cnn"))
    assert plain.summary.atypical == ""
    assert plain.etiology == ()


def test_a_hundred_thousand_films_are_counted_in_full() -> None:
    models = make_models("cnn", "mlp", "vgg16", typicality=make_typicality())
    some = with_looks(make_rows(models, 40, 60, labelled=False))
    rows = [
        msgspec.structs.replace(row, image=f"{n:04}/{row.image}", sha256=f"{n:04}{row.sha256[4:]}")
        for n in range(1000)
        for row in some
    ]
    facts = tell(rows, models)
    assert facts.summary.headline == (
        "61,000 of 100,000 scored films were flagged as possible pneumonia."
    )
    assert facts.summary.scored_files == "100,000 files found in “films”."
    assert facts.listing.rest.startswith("The first 2,000 of 100,000 files are listed here;")
    assert len([film for row in facts.gallery for part in row for film in part.images]) < 40
    assert "100,000 films" in facts.drift.histogram_title
