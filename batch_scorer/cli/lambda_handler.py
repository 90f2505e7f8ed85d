"""AWS Lambda's way into the nightly run: ``python -m awslambdaric`` calls ``handle``.

Every error leaves as an exception of one line, so that it counts in the function's metric Errors
and reaches its dead-letter queue or on-failure destination. Lambda then calls an event that came by
itself (S3, SNS, EventBridge) two more times at most, after one and two minutes, never for ever
(Lambda's guide, "How Lambda handles errors and retries with asynchronous invocation"). The second
call goes on where the first one was stopped, and one that cannot succeed costs little. Which of the
two it was, the class of the exception says, which Lambda reports as ``errorType``.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from batch_scorer.cli.job_request import STOP_RESERVE_S, handle_event, start_event_log
from batch_scorer.errors import EXIT_RETRY


class TryAgain(Exception):
    """The night is not done, and another call may get further."""


class Failed(Exception):
    """The night cannot be done until something is changed."""


class Context(Protocol):
    """What Lambda tells about a call, as far as it is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the process."""


def handle(event: object, context: Context) -> dict[str, Any]:
    """Run the night that an event asks for, within the time that Lambda gives.

    Args:
        event: The event's JSON, decoded.
        context: Lambda's own.

    Returns:
        The night, its counts and where its report lies; or why the event was ignored.

    Raises:
        TryAgain: The time was over, another task is at it, or the storage does not answer.
        Failed: Event, settings, films or results are not as they must be.
    """
    _replace_log_handlers()
    answer = handle_event(
        event, lambda: context.get_remaining_time_in_millis() < 1000 * STOP_RESERVE_S
    )
    if answer.error:
        raise (TryAgain if answer.exit_code == EXIT_RETRY else Failed)(answer.error)
    return answer.facts


def _replace_log_handlers() -> None:
    """Write each line once: the runtime's own handler would say it again, and in words."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__module__.startswith("awslambdaric")]:
        root.removeHandler(handler)
    start_event_log()
