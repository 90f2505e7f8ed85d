"""What is new between two nights: every row of its night, and accounts that close."""

from __future__ import annotations

import msgspec

from batch_scorer.job.news import date_rows, tell_since
from tests.factories import make_manifest, make_models, make_rows, make_unscored


def test_rows_stay_of_their_night_while_name_content_and_status_do():
    models = make_models("cnn")
    rows = [
        msgspec.structs.replace(row, sha256=f"{n:064x}")
        for n, row in enumerate(make_rows(models, 4, 4))
    ]
    first = date_rows([*rows, *make_unscored(1)], [], "20261126-020000")
    assert {row.night for row in first} == {"20261126-020000"}
    changed = msgspec.structs.replace(rows[1], sha256="f" * 64)
    renamed = msgspec.structs.replace(rows[2], image="renamed.png")
    healed = msgspec.structs.replace(rows[3], image=first[-1].image, sha256="e" * 64)
    again = [rows[0], changed, renamed, *rows[3:], healed]
    second = date_rows(again, first, "20261127-020000")
    assert [row.image for row in second if row.night == "20261127-020000"] == [
        *(changed.image, "renamed.png", healed.image),
    ]
    earlier = make_manifest(first, models, night="20261126-020000")
    since = tell_since(second, first, earlier, "20261127-020000")
    assert (since.films, since.new, since.changed, since.gone) == (9, 1, 2, 1)
    assert since.films - since.gone + since.new == len(second)
    assert since.flagged == sum(row.prediction == "PNEUMONIA" for row in (changed, renamed, healed))
    assert not since.same


def test_another_model_makes_no_row_new():
    models = make_models("cnn")
    first = date_rows(make_rows(models, 3, 3), [], "20261126-020000")
    other = [msgspec.structs.replace(row, probabilities=(0.5,), night="") for row in first]
    assert date_rows(other, first, "20261127-020000") == [
        msgspec.structs.replace(row, night="20261126-020000") for row in other
    ]
