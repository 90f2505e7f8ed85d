"""first_look: which films are shown, why, and none of them twice."""

from __future__ import annotations

import msgspec

from batch_scorer.results.worklist import (
    IMAGES_PER_REASON,
    count_reviewable,
    rank_candidates,
    select_for_review,
)
from tests.factories import make_models, make_rows


def rows_of(*probabilities, label="", prediction_at=0.8, agreement=1.0):
    base = make_rows(make_models("cnn"))[0]
    return [
        msgspec.structs.replace(
            base,
            image=f"film-{index:03}.png",
            probabilities=(p,),
            prediction="PNEUMONIA" if p >= prediction_at else "NORMAL",
            label=label,
            agreement=agreement,
        )
        for index, p in enumerate(probabilities)
    ]


def test_the_most_likely_come_first_and_no_film_comes_twice():
    groups = select_for_review(rows_of(0.99, 0.85, 0.95, 0.1, 0.75), 0.8)
    assert [row.probability for row in groups["highest"]] == [0.99, 0.95, 0.85]
    assert [row.probability for row in groups["closest"]] == [0.75]
    shown = [row.image for group in groups.values() for row in group]
    assert len(shown) == len(set(shown))


def test_close_means_close_also_to_a_high_threshold():
    assert "closest" not in select_for_review(rows_of(0.70), 0.95)
    flagged = rows_of(*[0.999] * IMAGES_PER_REASON, 0.998)
    assert "closest" not in select_for_review(flagged, 0.85)


def test_a_band_decides_what_is_close_where_there_is_one():
    rows = [
        msgspec.structs.replace(row, undecided=uncertain)
        for row, uncertain in zip(rows_of(0.3, 0.79), (True, False), strict=True)
    ]
    assert [row.probability for row in select_for_review(rows, 0.8)["closest"]] == [0.3]


def test_errors_on_labelled_films_come_before_everything():
    groups = select_for_review(
        [*rows_of(0.2, label="PNEUMONIA"), *rows_of(0.9, 0.95, label="NORMAL")], 0.8
    )
    assert list(groups)[:2] == ["missed", "false_alarm"]


def test_disagreement_is_shown_and_copies_and_unscored_files_are_not():
    divided = rows_of(0.1, agreement=0.5)
    copy = msgspec.structs.replace(divided[0], image="copy.png", duplicate_of="film-000.png")
    broken = msgspec.structs.replace(divided[0], image="broken.png", status="failed")
    groups = select_for_review([*divided, copy, broken], 0.8)
    assert [row.image for row in groups["disagree"]] == ["film-000.png"]
    assert sum(map(len, groups.values())) == 1


def test_minutes_decide_how_many_films_are_shown_and_the_reasons_share_them():
    assert (count_reviewable(1), count_reviewable(30)) == (1, 40)
    rows = [
        *rows_of(*[0.99 - index / 1000 for index in range(100)]),
        *named("other", rows_of(*[0.79 - index / 1000 for index in range(3)])),
    ]
    groups = select_for_review(rows, 0.8, minutes=30)
    assert {reason: len(found) for reason, found in groups.items()} == {"highest": 37, "closest": 3}
    assert groups["highest"] == rows[:37]


def test_what_one_reason_leaves_over_goes_to_the_others_in_their_order():
    missed = named("missed", rows_of(*[0.1] * 30, label="PNEUMONIA"))
    alarms = named("alarm", rows_of(*[0.9] * 2, label="NORMAL"))
    groups = select_for_review([*missed, *alarms], 0.8, minutes=15)
    assert {reason: len(found) for reason, found in groups.items()} == {
        "missed": 18,
        "false_alarm": 2,
    }


def test_no_more_films_are_shown_than_there_is_a_reason_for():
    groups = select_for_review(rows_of(0.9, 0.95, 0.1), 0.8, minutes=480)
    assert sum(map(len, groups.values())) == 2


def test_a_film_lines_up_for_every_reason_that_it_has():
    lines = rank_candidates(rows_of(0.85, 0.9, label="NORMAL", agreement=0.5), 0.8)
    assert {reason: len(line) for reason, line in lines.items()} == {
        "missed": 0,
        "false_alarm": 2,
        "highest": 2,
        "closest": 1,
        "disagree": 2,
    }


def named(prefix, rows):
    return [msgspec.structs.replace(row, image=f"{prefix}-{row.image}") for row in rows]
