"""Read back what the program wrote: one border for every file that somebody may have changed.

The types of a stored file say all that may stand in it. What passes this border is used without
further checks; what does not is an error of the program, with the place where it differs.
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
"""What a decoder of msgspec may raise, whatever it is given."""
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
LargeCount = Annotated[int, Meta(ge=0, le=1_000_000_000_000_000_000)]
"""Of bytes, or of what may be as many."""
FiniteFloat = Annotated[float, Meta(ge=-1e39, le=1e39)]
"""Finite, and nothing that a model computes in float32 is larger: squares of it are finite too."""
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
RUN_DATE_FORMAT = "%Y%m%d-%H%M%S"
RunDate = Annotated[str, Meta(pattern=r"^([0-9]{8}-[0-9]{6})?\Z")]
"""20260102-030405: when a scheduled run was opened; empty for any other run."""
MAX_LEASE_TERM_S = 86_400
"""Of a lease: so long somebody may wait for a task that gives no sign of life."""
_END_YEAR = 9000
"""Later moments have no room for the next one."""


def decode_json(
    data: bytes, kind: type[_T], what: str, hint: str, error: type[CxrError] = OutputError
) -> _T:
    """Decode a stored file.

    Args:
        data: The whole file, JSON.
        kind: The type that says what it may hold.
        what: What an error calls the file.
        hint: What to do about one that cannot be read.
        error: What to raise then.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except DECODE_ERRORS as exc:
        raise error(f"{what} cannot be read: {exc}.", hint) from exc


def check_timestamps(*texts: str) -> None:
    """Refuse what is no moment of a known time zone, in ISO 8601, that can be computed with.

    Raises:
        ValueError: One is not, which msgspec turns into its own error with the place.
    """
    for text in texts:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None or not 1 < moment.year < _END_YEAR:
            raise ValueError(
                f"expected a moment with its time zone before the year {_END_YEAR}, "
                f"found {text[:40]!a}"
            )


def check_run_date(text: str) -> None:
    """Refuse a run date that is no moment, or leaves no room for the next one.

    Raises:
        ValueError: It is such a text.
    """
    if text and not 1 < datetime.strptime(text, RUN_DATE_FORMAT).year < _END_YEAR:  # noqa: DTZ007 - UTC
        raise ValueError(f"expected a run date before the year {_END_YEAR}, found {text}")
