"""Changes between two runs: the date of every row, and counts that add up."""

from __future__ import annotations

import msgspec

from batch_scorer.jobs.diff import assign_run_dates, compare_runs
from batch_scorer.results.run_dates import RUN_DATE_COLUMN
from batch_scorer.results.store import FinishedRun
from tests.factories import make_manifest, make_models, make_rows, make_unscored


def finish(rows, models, run_date):
    dates = assign_run_dates(rows, None, run_date)
    manifest = make_manifest(rows, models, run_date=run_date)
    return FinishedRun(manifest, rows, {RUN_DATE_COLUMN: dates})


def test_rows_keep_their_run_date_while_name_content_and_status_stay():
    models = make_models("cnn")
    rows = [
        msgspec.structs.replace(row, sha256=f"{n:064x}")
        for n, row in enumerate(make_rows(models, 4, 4))
    ]
    first = finish([*rows, *make_unscored(1)], models, "20261126-020000")
    assert first.extra_columns[RUN_DATE_COLUMN] == ["20261126-020000"] * 9
    changed = msgspec.structs.replace(rows[1], sha256="f" * 64)
    renamed = msgspec.structs.replace(rows[2], image="renamed.png")
    healed = msgspec.structs.replace(rows[3], image=first.rows[-1].image, sha256="e" * 64)
    second = [rows[0], changed, renamed, *rows[3:], healed]
    dates = assign_run_dates(second, first, "20261127-020000")
    dated = zip(second, dates, strict=True)
    assert [row.image for row, date in dated if date == "20261127-020000"] == [
        *(changed.image, "renamed.png", healed.image),
    ]
    since = compare_runs(second, dates, first, "20261127-020000")
    assert (since.images, since.new, since.changed, since.gone) == (9, 1, 2, 1)
    assert since.images - since.gone + since.new == len(second)
    assert since.flagged == sum(row.prediction == "PNEUMONIA" for row in (changed, renamed, healed))
    assert not since.unchanged


def test_another_model_makes_no_row_new():
    models = make_models("cnn")
    first = finish(make_rows(models, 3, 3), models, "20261126-020000")
    other = [msgspec.structs.replace(row, probabilities=(0.5,)) for row in first.rows]
    assert assign_run_dates(other, first, "20261127-020000") == ["20261126-020000"] * len(other)
