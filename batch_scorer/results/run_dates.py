"""The column of scheduled runs (``cxr job``): the date of the run that first wrote a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batch_scorer.errors import OutputError
from batch_scorer.system.strict_json import RunDate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.results.schema import Score
    from batch_scorer.results.store import FinishedRun

RUN_DATE_COLUMN = "run_date"


def read_run_dates(run: FinishedRun) -> list[str]:
    """Return the date of each row; empty dates for a run without that column.

    Raises:
        OutputError: A cell holds something other than a date.
    """
    try:
        return msgspec.convert(
            run.extra_columns.get(RUN_DATE_COLUMN, [""] * len(run.rows)), list[RunDate]
        )
    except msgspec.ValidationError as exc:
        raise OutputError(
            f"The column {RUN_DATE_COLUMN} of run {run.manifest.run_id} cannot be read: {exc}.",
            "Score the images again.",
        ) from exc


def select_rows_of_date(
    rows: Sequence[Score], dates: Sequence[str], run_date: str
) -> Sequence[Score]:
    """Return the rows that a scheduled run wrote first; all rows of any other run.

    Args:
        rows: The rows of the run.
        dates: The date of each row; empty for a run that is not scheduled.
        run_date: The date of the run; empty for a run that is not scheduled.
    """
    if not run_date or not dates:
        return rows
    return [row for row, date in zip(rows, dates, strict=True) if date == run_date]
