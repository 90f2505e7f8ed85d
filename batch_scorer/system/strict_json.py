"""Strict reading of the program's own JSON files, which somebody may have changed.

The types of a stored file state everything that it may contain. Decoded values are used without
further checks; anything else is an error that names the field.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from batch_scorer.errors import OutputError

if TYPE_CHECKING:
    from batch_scorer.errors import CxrError

_T = TypeVar("_T")

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""The errors that a msgspec decoder may raise on any input."""
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
LargeCount = Annotated[int, Meta(ge=0, le=1_000_000_000_000_000_000)]
"""A count of bytes, or of anything as numerous."""
FiniteFloat = Annotated[float, Meta(ge=-1e39, le=1e39)]
"""A float in the range of float32, so that its square is finite in float64."""
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
RUN_DATE_FORMAT = "%Y%m%d-%H%M%S"
RunDate = Annotated[str, Meta(pattern=r"^([0-9]{8}-[0-9]{6})?\Z")]
"""The time when a scheduled run was opened: 20260102-030405. Empty for other runs."""
MAX_LEASE_TERM_S = 86_400
"""The longest that another task waits for a task without a sign of life."""
_END_YEAR = 9000
"""Later timestamps leave no room for the next scheduled run."""


def decode_json(
    data: bytes, kind: type[_T], what: str, hint: str, error: type[CxrError] = OutputError
) -> _T:
    """Decode a stored file.

    Args:
        data: The whole file, JSON.
        kind: The type to decode to.
        what: The file's name in an error message.
        hint: What to try if the file cannot be read.
        error: The class of the error to raise.

    Raises:
        CxrError: The file cannot be read; the error is of the class ``error``.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except DECODE_ERRORS as exc:
        raise error(f"{what} cannot be read: {exc}.", hint) from exc


def check_timestamps(*texts: str) -> None:
    """Refuse texts that are not ISO 8601 timestamps with a time zone, in a usable year.

    Raises:
        ValueError: A text is not such a timestamp. msgspec adds the field to the message.
    """
    for text in texts:
        timestamp = datetime.fromisoformat(text)
        if timestamp.tzinfo is None or not 1 < timestamp.year < _END_YEAR:
            raise ValueError(
                f"expected a timestamp with a time zone before the year {_END_YEAR}, "
                f"found {text[:40]!a}"
            )


def check_run_date(run_date: str) -> None:
    """Refuse a run date that is not a date, or that leaves no room for the next run.

    Raises:
        ValueError: The run date is not valid.
    """
    if run_date and not 1 < datetime.strptime(run_date, RUN_DATE_FORMAT).year < _END_YEAR:  # noqa: DTZ007 - UTC
        raise ValueError(f"expected a run date before the year {_END_YEAR}, found {run_date}")
