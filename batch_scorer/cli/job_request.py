"""Run the night that an event asks for; tell every outcome and every error in a few fields.

This is what the ways in by Lambda and by HTTP have in common.
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
"""With less time left than this no batch begins: the rows of the one before are kept by then."""


@dataclass(frozen=True)
class JobResponse:
    """What came of an event: an exit code as of ``cxr job run``, and facts or an error.

    ``error`` is its line and ``code`` its stable name, such as "occupied".
    """

    exit_code: int
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    code: str = ""


def start_event_log() -> None:
    """Begin an event's lines on standard error: what ``cxr`` would say there, in words or JSON."""
    clear_fields()
    register_secrets(value for name, value in os.environ.items() if name.startswith("CXR_"))
    set_log_format(find_log_format([], os.environ))
    set_log_level(logging.INFO)
    configure_process()


def handle_event(event: object, stop: Callable[[], bool] | None = None) -> JobResponse:
    """Run the night that an event asks for, with the settings of the environment (``CXR_JOB_*``).

    Args:
        event: The event's JSON, decoded.
        stop: Asked after every batch; where it says yes, the night is left to be gone on with.

    Returns:
        The night's counts, or why the event starts nothing, or why the night is not done.
    """
    from batch_scorer.jobs.task import run_task

    images, output = (os.environ.get(f"CXR_JOB_{name}", "") for name in ("IMAGES", "OUTPUT"))
    try:
        errand = parse_event(event, images, output)
        if errand.ignored_reason:
            return JobResponse(EXIT_OK, {"ignored": errand.ignored_reason})
        with _one_at_a_time():
            return JobResponse(
                EXIT_OK, _summarize_outcome(run_task(read_task_spec(errand), stop=stop))
            )
    except click.ClickException as exc:
        return make_error_response(
            UsageError(exc.format_message(), "Each option is set by CXR_JOB_<OPTION>.")
        )
    except CxrError as exc:
        return make_error_response(exc)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let this process work on one night at a time, whatever a server's threads are asked for.

    Raises:
        Occupied: It is at work on one.
    """
    if not _job_lock.acquire(blocking=False):
        raise AlreadyRunning("This process is at work on a night.", "Send the event again later.")
    try:
        yield
    finally:
        _job_lock.release()


def make_error_response(error: CxrError) -> JobResponse:
    """An error as one line for machines: without secrets, and without the name of a film."""
    line = f"{redact_for_log(error.sentence, error.private)} {redact_for_log(error.hint, error.private)}"
    return JobResponse(error.exit_code, error=" ".join(line.split()), code=error.code)


@click.command(context_settings=CONTEXT_SETTINGS)
@task_options
def _read_environment(**options: Any) -> TaskSpec:
    """Read the environment as ``cxr job run`` does."""
    options.pop("fail_not_scored")  # an answer has no exit code
    return make_task_spec(**options)


def read_task_spec(errand: JobRequest) -> TaskSpec:
    """The job of an errand: what the environment says, and the errand's own places.

    Raises:
        click.ClickException: A setting is missing, or cannot be read.
        CxrError: A setting names what is not there.
    """
    images = ["--", errand.images] if errand.images else []
    output = ["--output", errand.output] if errand.output else []
    job: TaskSpec = _read_environment.main([*output, *images], "event", standalone_mode=False)
    return job


def _summarize_outcome(outcome: TaskOutcome) -> dict[str, Any]:
    """A night in numbers and places: no film is named."""
    manifest, since = outcome.manifest, outcome.changes
    facts: dict[str, Any] = {"night": outcome.run_date}
    if manifest is None:
        return facts | {"missing": [str(shard) for shard in outcome.missing]}
    counts = ("found", "scored", "rejected", "failed", "flagged")
    facts |= {name: getattr(manifest, name) for name in counts}
    facts["new"] = since.new + since.changed if since else manifest.found
    return facts | {"reports": list(outcome.report_urls), "latest": outcome.latest}
