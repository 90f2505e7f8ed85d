"""The table of all rows: what each column and group says, and what it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from batch_scorer.report.content.predictions_table import ALL_FILES, PredictionTable, build_table
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from tests.factories import make_band, make_manifest, make_models, make_rows, make_unscored

if TYPE_CHECKING:
    from batch_scorer.results.schema import Score


def describe(rows, models=None) -> PredictionTable:
    return build_table(RunView(make_manifest(rows, models or make_models("cnn")), rows))


def cells(table: PredictionTable, field: str) -> list:
    place = [column.full_title for column in table.columns].index(field)
    return [row.cells[place] for row in table.rows]


def sizes(table: PredictionTable) -> dict[str, int]:
    return {group.title: group.files for group in table.groups}


@pytest.fixture
def full() -> tuple[list[Score], list]:
    """Three models, labels, a band, a copy, an atypical film, files that were not scored."""
    models = make_models("cnn", "mlp", "vgg16", band=make_band())
    rows = make_rows(models) + make_unscored(2)
    rows[0] = msgspec.structs.replace(rows[0], typicality=0.011, atypical=True, viral=0.25)
    copy = msgspec.structs.replace(rows[0], image="zz-copy.jpeg", duplicate_of=rows[0].image)
    return [*rows, copy], models


def test_every_row_is_in_the_table_in_its_order(full):
    rows, models = full
    table = describe(rows, models)
    assert cells(table, "File") == [row.image for row in rows]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)
    assert [row.thumbnail for row in table.rows] == [row.sha256[:16] for row in rows]


def test_groups_have_the_totals_of_page_one(full):
    rows, models = full
    facts = build_report_facts(RunView(make_manifest(rows, models), rows))
    found = sizes(describe(rows, models))
    assert found[ALL_FILES] == len(rows)
    for tile in facts.summary.tiles:
        assert found[tile.label.capitalize()] == int(tile.number)
    assert found["Uncertain"] == sum(bool(row.undecided) for row in rows)
    assert found["Atypical"] == 2
    assert found["Exact copies"] == 1
    assert found["Models disagree"] == sum((row.agreement or 1) < 1 for row in rows)
    confusion = make_manifest(rows, models).metrics[0].confusion
    assert found["Missed: labelled pneumonia, not flagged"] == confusion.false_negative
    assert found["False alarms: labelled normal, flagged"] == confusion.false_positive


def test_a_row_names_its_groups(full):
    rows, models = full
    table = describe(rows, models)
    for place, group in enumerate(table.groups):
        assert sum(place in row.groups for row in table.rows) == group.files
    assert [row.flagged for row in table.rows] == [row.prediction == "PNEUMONIA" for row in rows]


def test_numbers_are_shown_as_in_the_pdf_and_sorted_by_their_value(full):
    rows, models = full
    table = describe(rows, models)
    listing = build_report_facts(RunView(make_manifest(rows, models), rows)).listing
    for place, model in enumerate(("cnn", "mlp", "vgg16")):
        shown = cells(table, f"Probability by {model}")
        printed = [row.probabilities[place] for row in listing.rows]
        assert [cell if isinstance(cell, str) else cell[0] for cell in shown] == printed
        values = [cell[1] for cell in shown if cell]
        expected = [row.probabilities[place] for row in rows if row.status == "scored"]
        assert values == pytest.approx(expected, abs=1e-6)
    assert [cell[0] for cell in cells(table, "Answer")] == [row.prediction for row in listing.rows]
    assert cells(table, "Typicality")[0] == ("0.01", 0.011)
    assert cells(table, "Viral, if it is pneumonia")[0] == ("0.25", 0.25)


def test_answers_sort_flagged_then_clear_then_not_scored(full):
    rows, models = full
    ranked = {text.split(",")[0]: rank for text, rank in cells(describe(rows, models), "Answer")}
    assert sorted(ranked, key=ranked.get) == ["Flagged", "Clear", "Not scored"]


def test_what_an_opened_file_says(full):
    rows, models = full
    table = describe(rows, models)
    last = {c.full_title: cell for c, cell in zip(table.columns, table.rows[-1].cells, strict=True)}
    assert last["Exact copy of"] == rows[0].image
    assert last["Size in pixels"] == "1,400 by 1,000"
    assert last["Hash of the file"] == rows[0].sha256
    assert last["Models that agree"] in {"1 of 3", "2 of 3", "3 of 3"}
    assert "likely" in last["Pneumonia, in words"]
    broken = next(row for row in table.rows if row.cells[0].startswith("broken"))
    said = {c.full_title: cell for c, cell in zip(table.columns, broken.cells, strict=True)}
    assert said["Why not scored"] == "Ends too early"
    assert said["What was found"] == "The file ends before the image does. Copy it again."
    assert said["Probability by cnn"] == said["Size in pixels"] == said["Pneumonia, in words"] == ""


def test_columns_and_groups_that_no_row_needs_are_left_out():
    table = describe(make_rows(make_models("cnn"), 1, 1, labelled=False))
    assert [column.title for column in table.columns if column.title] == ["File", "Answer", "cnn"]
    assert {"Why not scored", "Uncertain", "Exact copies"}.isdisjoint(sizes(table))
    failed = describe(make_unscored(3))
    assert [c.title for c in failed.columns if c.title] == ["File", "Answer", "Why not scored"]
    assert sizes(failed) == {ALL_FILES: 3, "Not scored": 3}
    nothing = describe([])
    assert nothing.rows == ()
    assert sizes(nothing) == {ALL_FILES: 0}


def test_patients_do_not_appear():
    models = make_models("cnn")
    rows = [msgspec.structs.replace(r, patient="Ada Lovelace") for r in make_rows(models, 2, 2)]
    assert "Lovelace" not in msgspec.json.encode(describe(rows, models)).decode()


def test_a_name_is_whole_and_plays_no_tricks():
    name = "\u202egpj.exe" + "x" * 4_000
    rows = make_rows(make_models("cnn"), 0, 1, names=[name])
    assert cells(describe(rows), "File") == ["‹U+202E›gpj.exe" + "x" * 4_000]
