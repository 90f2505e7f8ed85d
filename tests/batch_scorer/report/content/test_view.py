"""The view of a run names the deciding model and the rows that each part of the report uses."""

from __future__ import annotations

import msgspec

from batch_scorer.report.content.view import RunView
from tests.factories import make_manifest, make_models, make_rows, make_unscored


def test_the_first_model_decides() -> None:
    models = make_models("cnn", "mlp")
    rows = make_rows(models)
    view = RunView(make_manifest(rows, models), rows)
    assert view.model == models[0]
    assert view.card == models[0].card
    assert view.cards == [model.card for model in models]


def test_only_scored_rows_with_a_label_are_labelled() -> None:
    models = make_models("cnn")
    labelled = make_rows(models)
    rows = [*labelled, *make_unscored(3), msgspec.structs.replace(labelled[0], label="")]
    assert RunView(make_manifest(rows, models), rows).labelled == labelled


def test_the_gallery_of_a_scheduled_run_selects_from_its_new_rows() -> None:
    models = make_models("cnn")
    rows = make_rows(models)
    dates = ["20261125-020000", *["20261126-020000"] * (len(rows) - 1)]
    manifest = msgspec.structs.replace(make_manifest(rows, models), run_date=dates[-1])
    assert list(RunView(manifest, rows, dates).candidates) == rows[1:]
    assert list(RunView(make_manifest(rows, models), rows).candidates) == rows
