"""Changes in a scheduled run, against the newest finished one before it. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.results.run_dates import read_run_dates, select_rows_of_date
from batch_scorer.results.schema import RunChanges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.results.schema import Score
    from batch_scorer.results.store import FinishedRun


def assign_run_dates(rows: Sequence[Score], before: FinishedRun | None, run_date: str) -> list[str]:
    """For each row, the date of the scheduled run that first wrote it.

    A row keeps its date while its file has the same name, the same content and the same status, by
    whatever model it was scored.

    Args:
        rows: This run's.
        before: The earlier run, None where there was none.
        run_date: This run's date.
    """
    dates = zip(before.rows, read_run_dates(before), strict=True) if before else ()
    known = {(row.image, row.sha256, row.status): date for row, date in dates}
    return [known.get((row.image, row.sha256, row.status), run_date) for row in rows]


def compare_runs(
    rows: Sequence[Score], dates: Sequence[str], before: FinishedRun, run_date: str
) -> RunChanges:
    """What came, changed and went between two scheduled runs.

    Args:
        rows: This run's.
        dates: The dates of the runs that first wrote them.
        before: The earlier run.
        run_date: This run's date.
    """
    names, names_before = {row.image for row in rows}, {row.image for row in before.rows}
    fresh = select_rows_of_date(rows, dates, run_date)
    new = sum(row.image not in names_before for row in fresh)
    return RunChanges(
        run_date=before.manifest.run_date,
        finished=before.manifest.finished,
        images=len(before.rows),
        new=new,
        changed=len(fresh) - new,
        gone=len(names_before - names),
        flagged=sum(row.prediction == CLASSES[1] for row in fresh),
    )
