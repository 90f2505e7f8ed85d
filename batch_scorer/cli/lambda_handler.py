"""AWS Lambda entry point of scheduled runs: ``python -m awslambdaric`` calls ``handle``.

Every error is raised as a one-line exception, so that it counts in the metric Errors and reaches
the dead-letter queue or on-failure destination. Lambda retries an asynchronous event (S3, SNS,
EventBridge) at most twice, after one and two minutes. (Lambda's guide, "How Lambda handles errors
and retries with asynchronous invocation".) A retry resumes an interrupted run, and costs little if
it cannot succeed. The exception's class, which Lambda reports as ``errorType``, says which of the
two it was.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from batch_scorer.cli.job_request import STOP_RESERVE_S, handle_event, start_event_log
from batch_scorer.errors import EXIT_RETRY


class TryAgain(Exception):
    """The run is not finished, and another call may succeed."""


class Failed(Exception):
    """The run cannot finish until something is changed."""


class Context(Protocol):
    """The part of Lambda's context that is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the process."""


def handle(event: object, context: Context) -> dict[str, Any]:
    """Run the job that an event asks for, within Lambda's time limit.

    Args:
        event: The event's decoded JSON.
        context: Lambda's context.

    Returns:
        The run's date, counts and report URLs; or the reason for ignoring the event.

    Raises:
        TryAgain: Time ran out, another task does the same work, or the storage does not respond.
        Failed: The event, settings, images or results are invalid.
    """
    _replace_log_handlers()
    response = handle_event(
        event, lambda: context.get_remaining_time_in_millis() < 1000 * STOP_RESERVE_S
    )
    if response.error:
        raise (TryAgain if response.exit_code == EXIT_RETRY else Failed)(response.error)
    return response.facts


def _replace_log_handlers() -> None:
    """Remove the runtime's own log handler, which would write each line twice, and as text."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__module__.startswith("awslambdaric")]:
        root.removeHandler(handler)
    start_event_log()
