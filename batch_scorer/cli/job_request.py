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

from batch_scorer.cli.job_options import SETTINGS, night_job_of, night_options
from batch_scorer.errors import EXIT_OK, CxrError, Occupied, UsageError
from batch_scorer.jobs.events import read_event
from batch_scorer.system.log import asked_format, redact, set_format, unbind
from batch_scorer.system.redact import learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_scorer.jobs.events import Errand
    from batch_scorer.jobs.finalize import NightOutcome
    from batch_scorer.jobs.task import NightJob

_work = Lock()
RESERVE_S = 15
"""With less time left than this no batch begins: the rows of the one before are kept by then."""


@dataclass(frozen=True)
class Answer:
    """What came of an event: an exit code as of ``cxr job run``, and facts or an error.

    ``error`` is its line and ``code`` its stable name, such as "occupied".
    """

    exit_code: int
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    code: str = ""


def open_log() -> None:
    """Begin an event's lines on standard error: what ``cxr`` would say there, in words or JSON."""
    unbind()
    learn(value for name, value in os.environ.items() if name.startswith("CXR_"))
    set_format(asked_format([], os.environ))
    logging.getLogger("cxr").setLevel(logging.INFO)


def answer_event(event: object, stop: Callable[[], bool] | None = None) -> Answer:
    """Run the night that an event asks for, with the settings of the environment (``CXR_JOB_*``).

    Args:
        event: The event's JSON, decoded.
        stop: Asked after every batch; where it says yes, the night is left to be gone on with.

    Returns:
        The night's counts, or why the event starts nothing, or why the night is not done.
    """
    from batch_scorer.jobs.task import run_night

    images, output = (os.environ.get(f"CXR_JOB_{name}", "") for name in ("IMAGES", "OUTPUT"))
    try:
        errand = read_event(event, images, output)
        if errand.ignored:
            return Answer(EXIT_OK, {"ignored": errand.ignored})
        with _alone():
            return Answer(EXIT_OK, _tell(run_night(read_settings(errand), stop=stop)))
    except click.ClickException as exc:
        return explain(UsageError(exc.format_message(), "Each option is set by CXR_JOB_<OPTION>."))
    except CxrError as exc:
        return explain(exc)


@contextmanager
def _alone() -> Iterator[None]:
    """Let this process work on one night at a time, whatever a server's threads are asked for.

    Raises:
        Occupied: It is at work on one.
    """
    if not _work.acquire(blocking=False):
        raise Occupied("This process is at work on a night.", "Send the event again later.")
    try:
        yield
    finally:
        _work.release()


def explain(error: CxrError) -> Answer:
    """An error as one line for machines: without secrets, and without the name of a film."""
    line = f"{redact(error.sentence, error.private)} {redact(error.hint, error.private)}"
    return Answer(error.exit_code, error=" ".join(line.split()), code=error.code)


@click.command(context_settings=SETTINGS)
@night_options
def _read(**options: Any) -> NightJob:
    """Read the environment as ``cxr job run`` does."""
    options.pop("fail_not_scored")  # an answer has no exit code
    return night_job_of(**options)


def read_settings(errand: Errand) -> NightJob:
    """The job of an errand: what the environment says, and the errand's own places.

    Raises:
        click.ClickException: A setting is missing, or cannot be read.
        CxrError: A setting names what is not there.
    """
    images = ["--", errand.images] if errand.images else []
    output = ["--output", errand.output] if errand.output else []
    job: NightJob = _read.main([*output, *images], "event", standalone_mode=False)
    return job


def _tell(outcome: NightOutcome) -> dict[str, Any]:
    """A night in numbers and places: no film is named."""
    manifest, since = outcome.manifest, outcome.since
    facts: dict[str, Any] = {"night": outcome.night}
    if manifest is None:
        return facts | {"missing": [str(shard) for shard in outcome.missing]}
    counts = ("found", "scored", "rejected", "failed", "flagged")
    facts |= {name: getattr(manifest, name) for name in counts}
    facts["new"] = since.new + since.changed if since else manifest.found
    return facts | {"reports": list(outcome.reports), "latest": outcome.latest}
