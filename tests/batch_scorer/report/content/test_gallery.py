"""Films to look at first: why these, in which order, and how they fill a row."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batch_scorer.report.content.gallery import (
    COLUMNS_PER_ROW,
    GROUP_TITLES,
    build_gallery,
    describe_group,
    describe_selection,
)
from batch_scorer.report.content.view import RunView
from batch_scorer.results.schema import Gallery
from tests.factories import (
    make_band,
    make_evidence,
    make_gallery,
    make_manifest,
    make_models,
    make_rows,
    make_unscored,
)


def choose(rows: list[Any], **gallery: Any) -> str:
    models = make_models("cnn")
    return describe_selection(
        RunView(make_manifest(rows, models, gallery=Gallery(**gallery)), rows)
    )


def test_the_choice_is_explained_with_and_without_minutes() -> None:
    rows = make_rows(make_models("cnn"), 60, 60, labelled=False)
    assert choose(rows).startswith("Up to 6 films are shown for each reason")
    assert choose(rows, review_minutes=30) == (
        "In 30 minutes, at 45 seconds a film, 40 films can be looked at: those below, shared among "
        "the reasons to look, in this order."
    )
    assert choose(rows, review_minutes=1).startswith(
        "In 1 minute, at 45 seconds a film, 1 film can be looked at: those below"
    )
    assert "there is a reason to look at 1, all shown" in choose(
        [row for row in rows if row.probability > 0.9][:1], review_minutes=30
    )


@pytest.mark.parametrize(
    ("reason", "shown", "found", "sentence"),
    [
        (
            "missed",
            6,
            21,
            "6 of 21 films that are labelled pneumonia, yet not flagged; the least probable first: "
            "there the model was most wrong, or the label is.",
        ),
        ("missed", 1, 1, "The one film that is labelled pneumonia, yet not flagged."),
        (
            "false_alarm",
            2,
            2,
            "All films that are labelled normal, yet flagged: more to read, but no patient is "
            "missed; the most probable first: there the model was most wrong, or the label is.",
        ),
        (
            "highest",
            1,
            1204,
            "1 of 1,204 films that are flagged.",
        ),
        (
            "closest",
            3,
            3,
            "All films that are near the threshold, flagged or not; the nearest first: there the "
            "answer could most easily turn.",
        ),
        (
            "disagree",
            2,
            5,
            "2 of 5 films that are judged otherwise by another model; the least agreement first: "
            "there the models know least.",
        ),
    ],
)
def test_each_group_says_why_these_and_in_which_order(
    reason: str, shown: int, found: int, sentence: str
) -> None:
    models = make_models("cnn")
    assert describe_group(reason, shown, found, models[0].card) == sentence


def test_near_the_threshold_is_the_band_where_the_model_has_one() -> None:
    card = make_models("cnn", band=make_band())[0].card
    assert "in the band around the threshold" in describe_group("closest", 2, 2, card)


def test_a_labelled_batch_shows_its_errors_first_and_each_is_named_one() -> None:
    models = make_models("cnn", "mlp")
    rows = make_rows(models, 40, 60)
    gallery = build_gallery(RunView(make_manifest(rows, models), rows))
    titles = [part.title for row in gallery for part in row if part.title]
    assert titles[:2] == ["Missed pneumonia", "False alarms"]
    parts = {part.title: part for row in gallery for part in row if part.title}
    assert all(
        "not flagged, labelled pneumonia" in f.note for f in parts["Missed pneumonia"].images
    )
    assert all(f.note.startswith("flagged") for f in parts["False alarms"].images)
    assert all("labelled normal" in film.note for film in parts["False alarms"].images)
    assert set(titles) <= set(GROUP_TITLES.values())


@pytest.mark.parametrize("minutes", [None, 7, 30])
def test_rows_are_full_but_never_wider_than_a_page(minutes: int | None) -> None:
    models = make_models("cnn", "mlp", evidence=make_evidence())
    rows = make_rows(models, 40, 60)
    shown = make_gallery(rows, review_minutes=minutes)
    gallery = build_gallery(RunView(make_manifest(rows, models, gallery=shown), rows))
    assert all(0 < sum(part.column_span for part in row) <= COLUMNS_PER_ROW for row in gallery)
    films = [film for row in gallery for part in row for film in part.images]
    assert len({film.name for film in films}) == len(films)
    if minutes:
        assert len(films) == minutes * 60 // 45
    assert all(bool(f.evidence) == f.note.startswith("flagged") for f in films)
    assert {film.column_span for film in films} == {1, 2}
    assert all(film.evidence == f"{film.thumbnail}-evidence" for film in films if film.evidence)


def test_every_film_of_the_gallery_has_texts_for_its_pictures() -> None:
    models = make_models("cnn", evidence=make_evidence())
    rows = make_rows(models, 5, 5)
    gallery = build_gallery(RunView(make_manifest(rows, models, gallery=make_gallery(rows)), rows))
    film = next(f for row in gallery for part in row for f in part.images if f.evidence)
    assert film.alt == (
        f"Chest film {film.name}. Pneumonia {film.likelihood}, "
        f"probability {film.probability}, flagged."
    )
    assert film.evidence_alt.startswith(f"Evidence map of {film.name} by Convolutional network")


def test_without_films_there_is_no_gallery() -> None:
    models = make_models("cnn")
    rows = make_unscored(3)
    assert build_gallery(RunView(make_manifest(rows, models), rows)) == ()


def test_a_hundred_thousand_films_are_lined_up_in_no_time() -> None:
    models = make_models("cnn", "mlp")
    few = make_rows(models, 500, 500)
    rows = [
        msgspec.structs.replace(row, image=f"{copy:03}/{row.image}")
        for copy in range(100)
        for row in few
    ]
    gallery = build_gallery(RunView(make_manifest(few, models), rows))
    assert "6 of " in gallery[0][0].text
    assert sum(len(part.images) for row in gallery for part in row) == 30
