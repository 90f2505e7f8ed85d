"""Changes in a scheduled run since the newest finished run before it. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.results.run_dates import read_run_dates, select_rows_of_date
from batch_scorer.results.schema import RunChanges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.results.schema import Score
    from batch_scorer.results.store import FinishedRun


def assign_run_dates(
    rows: Sequence[Score], earlier: FinishedRun | None, run_date: str
) -> list[str]:
    """Return for each row the date of the scheduled run that first wrote it.

    A row keeps its date while its file has the same name, content and status, whatever model scored
    it.

    Args:
        rows: Rows of this run.
        earlier: The earlier run, None if this is the first.
        run_date: Date of this run.
    """
    dates = zip(earlier.rows, read_run_dates(earlier), strict=True) if earlier else ()
    known = {(row.image, row.sha256, row.status): date for row, date in dates}
    return [known.get((row.image, row.sha256, row.status), run_date) for row in rows]


def compare_runs(
    rows: Sequence[Score], dates: Sequence[str], earlier: FinishedRun, run_date: str
) -> RunChanges:
    """Count the images that are new, changed or gone since the earlier scheduled run.

    Args:
        rows: Rows of this run.
        dates: For each row, the date of the run that first wrote it.
        earlier: The earlier run.
        run_date: Date of this run.
    """
    names, earlier_names = {row.image for row in rows}, {row.image for row in earlier.rows}
    new_or_changed = select_rows_of_date(rows, dates, run_date)
    new = sum(row.image not in earlier_names for row in new_or_changed)
    return RunChanges(
        run_date=earlier.manifest.run_date,
        finished=earlier.manifest.finished,
        images=len(earlier.rows),
        new=new,
        changed=len(new_or_changed) - new,
        gone=len(earlier_names - names),
        flagged=sum(row.prediction == CLASSES[1] for row in new_or_changed),
    )
