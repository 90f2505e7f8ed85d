"""Run the scheduled job that an event asks for, and summarize its outcome or error.

Shared by the Lambda and HTTP entry points.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import click

from batch_scorer.cli.job_options import CONTEXT_SETTINGS, make_task_spec, task_options
from batch_scorer.errors import EXIT_OK, AlreadyRunning, CxrError, UsageError
from batch_scorer.jobs.events import parse_event
from batch_scorer.system.log import (
    clear_fields,
    find_log_format,
    redact_for_log,
    set_log_format,
    set_log_level,
)
from batch_scorer.system.process_setup import configure_process
from batch_scorer.system.redact import register_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_scorer.jobs.events import JobRequest
    from batch_scorer.jobs.finalize import TaskOutcome
    from batch_scorer.jobs.task import TaskSpec

_job_lock = Lock()
STOP_RESERVE_S = 15
"""No batch starts with less time left, so that the rows of the last one are saved in time."""


@dataclass(frozen=True)
class JobResponse:
    """Response to an event: an exit code as of ``cxr job run``, and facts or an error.

    ``error`` is one line; ``code`` is its stable name, such as "occupied".
    """

    exit_code: int
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    code: str = ""


def start_event_log() -> None:
    """Start the log of one event on stderr, in the same format as that of ``cxr``."""
    clear_fields()
    register_secrets(value for name, value in os.environ.items() if name.startswith("CXR_"))
    set_log_format(find_log_format([], os.environ))
    set_log_level(logging.INFO)
    configure_process()


def handle_event(event: object, stop: Callable[[], bool] | None = None) -> JobResponse:
    """Run the job that an event asks for, with settings from the environment (``CXR_JOB_*``).

    Args:
        event: The event's decoded JSON.
        stop: Called after every batch. Stop if it returns True; the run can be resumed.

    Returns:
        The run's counts, the reason for ignoring the event, or the error.
    """
    from batch_scorer.jobs.task import run_task

    images, output = (os.environ.get(f"CXR_JOB_{name}", "") for name in ("IMAGES", "OUTPUT"))
    try:
        request = parse_event(event, images, output)
        if request.ignored_reason:
            return JobResponse(EXIT_OK, {"ignored": request.ignored_reason})
        with _one_at_a_time():
            return JobResponse(
                EXIT_OK, _summarize_outcome(run_task(read_task_spec(request), stop=stop))
            )
    except click.ClickException as exc:
        return make_error_response(
            UsageError(
                exc.format_message(),
                "Set each option by the environment variable CXR_JOB_<OPTION>.",
            )
        )
    except CxrError as exc:
        return make_error_response(exc)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Limit this process to one run at a time, even on a multithreaded server.

    Raises:
        AlreadyRunning: A run is in progress.
    """
    if not _job_lock.acquire(blocking=False):
        raise AlreadyRunning("This process already works on a run.", "Send the event again later.")
    try:
        yield
    finally:
        _job_lock.release()


def make_error_response(error: CxrError) -> JobResponse:
    """Format an error as one line without secrets and image names."""
    parts = (redact_for_log(part, error.private) for part in (error.sentence, error.hint))
    line = " ".join(" ".join(parts).split())
    return JobResponse(error.exit_code, error=line, code=error.code)


@click.command(context_settings=CONTEXT_SETTINGS)
@task_options
def _read_environment(**options: Any) -> TaskSpec:
    """Read the environment as ``cxr job run`` does."""
    options.pop("fail_not_scored")  # a response has no exit code
    return make_task_spec(**options)


def read_task_spec(request: JobRequest) -> TaskSpec:
    """Read the task from the environment; the request's images and output take precedence.

    Raises:
        click.ClickException: A setting is missing or invalid.
        CxrError: A setting names something that does not exist.
    """
    images = ["--", request.images] if request.images else []
    output = ["--output", request.output] if request.output else []
    job: TaskSpec = _read_environment.main([*output, *images], "event", standalone_mode=False)
    return job


def _summarize_outcome(outcome: TaskOutcome) -> dict[str, Any]:
    """Summarize an outcome in counts and URLs, without image names."""
    manifest, changes = outcome.manifest, outcome.changes
    facts: dict[str, Any] = {"night": outcome.run_date}
    if manifest is None:
        return facts | {"missing": [str(shard) for shard in outcome.missing_shards]}
    counts = ("found", "scored", "rejected", "failed", "flagged")
    facts |= {name: getattr(manifest, name) for name in counts}
    facts["new"] = changes.new + changes.changed if changes else manifest.found
    return facts | {"reports": list(outcome.report_urls), "latest": outcome.latest_url}
