"""Run the night that an event asks for; every outcome and every error in a few fields.

What the ways in by Lambda and by HTTP have in common.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from batch_scorer.errors import EXIT_OK, CxrError
from batch_scorer.faults import scrub
from batch_scorer.job.events import read_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.job.events import Errand
    from batch_scorer.job.night import NightOutcome


@dataclass(frozen=True)
class Answer:
    """What came of an event: exit code as of ``cxr job``, and facts or the line of an error."""

    exit_code: int
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def answer_event(event: object, stop: Callable[[], bool] | None = None) -> Answer:
    """Run the night that an event asks for, with the settings of the environment (``CXR_JOB_*``).

    Args:
        event: The event's JSON, decoded.
        stop: Asked after every batch; where it says yes, the night is left to be gone on with.

    Returns:
        The night's counts, or why the event was ignored, or why the night was not done.
    """
    try:
        images, output = (os.environ.get(f"CXR_JOB_{name}", "") for name in ("IMAGES", "OUTPUT"))
        errand = read_event(event, images, output)
        if errand.ignored:
            return Answer(EXIT_OK, {"ignored": errand.ignored})
        return _tell(_run(errand, stop))
    except (CxrError, click.ClickException) as exc:
        return explain_error(exc)


def explain_error(exc: CxrError | click.ClickException) -> Answer:
    """An error as one line without secrets."""
    text = exc.format_message() if isinstance(exc, click.ClickException) else str(exc)
    return Answer(exc.exit_code, error=" ".join(scrub(text).split()))


def _run(errand: Errand, stop: Callable[[], bool] | None) -> NightOutcome:
    raise NotImplementedError


def _tell(outcome: NightOutcome) -> Answer:
    raise NotImplementedError
