"""What page 1 says of a night of ``cxr job``, and what it shows first."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from batch_scorer.report.content.changes import describe_changes
from batch_scorer.report.content.predictions_table import build_table
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from batch_scorer.results.schema import RunChanges
from tests.factories import make_manifest, make_models, make_rows

BEFORE, NIGHT = "20261126-020000", "20261127-020000"
SINCE = RunChanges(BEFORE, "2026-11-26T02:07:00+00:00", 300, new=100, changed=0, gone=0, flagged=31)


def make_night(fresh: int, since: RunChanges):
    models = make_models("cnn")
    rows = make_rows(models, 20, 20, labelled=False)
    dates = [NIGHT if n < fresh else BEFORE for n in range(len(rows))]
    return make_manifest(rows, models, run_date=NIGHT, changes=since), rows, dates


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "100 files are new since the night of 26 November: 31 of them are flagged."),
        (
            {"new": 1, "flagged": 1, "gone": 1},
            "1 file is new since the night of 26 November: 1 of them is flagged. 1 file of that "
            "night is gone.",
        ),
        (
            {"new": 1_200, "changed": 3, "flagged": 0, "gone": 2},
            "1,203 files are new or changed since the night of 26 November: 0 of them are flagged. "
            "3 of them had another content or answer before. 2 files of that night are gone.",
        ),
        (
            {"new": 0, "changed": 2},
            "2 files changed since the night of 26 November: 31 of them are flagged.",
        ),
        ({"new": 0, "flagged": 0}, "No file is new since the night of 26 November."),
    ],
)
def test_news_are_told_in_one_breath(changes, words):
    manifest, _, _ = make_night(5, msgspec.structs.replace(SINCE, **changes))
    assert describe_changes(manifest) == words


def test_a_run_that_is_no_night_has_no_news():
    manifest, rows, dates = make_night(40, SINCE)
    alone = msgspec.structs.replace(manifest, run_date="", changes=None)
    facts = build_report_facts(RunView(alone, rows, dates))
    assert facts.summary.changes == ""
    assert facts.selection.startswith("Up to 6 films are shown")


def test_the_films_to_look_at_first_are_the_new_ones():
    manifest, rows, dates = make_night(10, msgspec.structs.replace(SINCE, new=10, flagged=4))
    facts = build_report_facts(RunView(manifest, rows, dates))
    assert facts.selection.startswith(
        "Only films that are new since the night of 26 November are shown here. Up to 6 films"
    )
    shown = [film.name for row in facts.gallery for part in row for film in part.images]
    assert shown
    assert set(shown) <= {row.image for row in rows[:10]}
    assert ", the 4 new ones first. Section 2" in facts.summary.next_steps[0]
    groups = {g.title: g.files for g in build_table(RunView(manifest, rows, dates)).groups}
    assert groups["New since the night of 26 November"] == 10


def test_where_nothing_is_new_no_film_is_shown_first():
    manifest, rows, dates = make_night(0, msgspec.structs.replace(SINCE, new=0, flagged=0, gone=2))
    facts = build_report_facts(RunView(manifest, rows, dates))
    assert facts.gallery == ()
    assert facts.no_gallery_reason == (
        "No file is new since the night of 26 November, so there is none to look at first."
    )
    assert "new one" not in facts.summary.next_steps[0]


def test_the_first_night_shows_films_like_any_run():
    manifest, rows, dates = make_night(40, SINCE)
    first = msgspec.structs.replace(manifest, changes=None)
    facts = build_report_facts(RunView(first, rows, dates))
    alone = build_report_facts(RunView(msgspec.structs.replace(first, run_date=""), rows))
    assert replace(facts, listing=alone.listing) == alone
