"""cxr job run, finish and status: options -> NightJob -> one call -> exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import cloup

from batch_scorer.cli.job_options import (
    CONTEXT_SETTINGS,
    finalize_options,
    make_task_spec,
    task_options,
)
from batch_scorer.cli.options import metrics_option, output_option, report_options
from batch_scorer.cli.score import GracefulStop, ProgressReporter, print_summary
from batch_scorer.errors import EXIT_NOT_ALL_SCORED, EXIT_OK

if TYPE_CHECKING:
    from batch_scorer.cli.prometheus import MetricsFile
    from batch_scorer.jobs.finalize import TaskOutcome
    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.results.schema import RunChanges


@click.group()
def job() -> None:
    """Score what is new, night by night, in one task or many.

    Each option also reads CXR_JOB_<OPTION>, IMAGES reads CXR_JOB_IMAGES.
    """


@job.command(
    cls=cloup.Command,
    context_settings=CONTEXT_SETTINGS,
    epilog="Example: cxr job run s3://hospital/films -o out",
)
@task_options
@metrics_option
def run(fail_not_scored: bool, gauges: MetricsFile, **options: Any) -> int:
    """Score this task's share of the films in IMAGES that are new since the last night.

    The first task opens a night, the others join it, and the last one merges and reports. Exit
    codes: 0 the task is done, 1 it failed, 2 wrong usage, 75 interrupted or another task is at the
    same work, try again.
    """
    from batch_scorer.jobs.task import run_task

    night_job = make_task_spec(**options)
    with ProgressReporter() as progress, GracefulStop() as stop:
        outcome = run_task(night_job, progress, stop)
    gauges.tell(outcome.manifest or next(iter(outcome.own[-1:]), None), outcome.own)
    return _print_outcome(outcome, fail_not_scored=fail_not_scored)


@job.command(
    cls=cloup.Command, context_settings=CONTEXT_SETTINGS, epilog="Example: cxr job finish -o out"
)
@output_option("Place of all nights, as it was given to `cxr job run`.")
@metrics_option
@finalize_options
@report_options
def finish(
    output: str,
    report: bool,
    drawing: ReportOptions,
    gauges: MetricsFile,
    fail_not_scored: bool,
    **ending: Any,
) -> int:
    """Merge, report and renew latest/ for the newest night, where that is not done yet.

    A share that is missing is named. Exit codes as for `cxr job run`.
    """
    from batch_scorer.jobs.finalize import FinalizeOptions, finalize_newest_run

    outcome = finalize_newest_run(FinalizeOptions(output, drawing if report else None, **ending))
    gauges.tell(outcome.manifest, own=())
    return _print_outcome(outcome, fail_not_scored=fail_not_scored)


@job.command(
    cls=cloup.Command, context_settings=CONTEXT_SETTINGS, epilog="Example: cxr job status -o out"
)
@output_option("Place of all nights, as it was given to `cxr job run`.")
def status(output: str) -> int:
    """Say which night is the newest, what of it is missing, and what stands in latest/."""
    from batch_scorer.jobs.latest import LATEST_FOLDER, read_newest_manifest
    from batch_scorer.jobs.schedule import find_scheduled_run
    from batch_scorer.storage.output import open_output

    place = open_output(output)
    night, newest = find_scheduled_run(place), read_newest_manifest(place)
    if night is None:
        click.echo(f"Night     none yet in {place.url}")
    elif night.closed():
        click.echo(f"Night     {night.name} is finished")
    else:
        missing = ", ".join(map(str, night.missing()))
        click.echo(f"Night     {night.name} is open: " + (missing or "no share") + " missing")
    if newest:
        click.echo(f"Latest    {place.url}/{LATEST_FOLDER}: the night {newest.run_date}")
        print_summary(newest)
    return EXIT_OK


def _print_outcome(outcome: TaskOutcome, *, fail_not_scored: bool) -> int:
    """Say what came of a task or a night; choose the exit code."""
    click.echo(
        f"Night     {outcome.run_date}{' was finished before' if outcome.already_finished else ''}"
    )
    whole = outcome.manifest
    for manifest in [whole] if whole else outcome.own:
        print_summary(manifest)
    if outcome.missing:
        waiting = ", ".join(map(str, outcome.missing))
        click.echo(f"Waiting   for {len(outcome.missing)} more: {waiting}")
    if outcome.nothing_new and outcome.changes:
        click.echo(f"New       nothing since {outcome.changes.run_date}: {outcome.latest} stays")
    elif outcome.changes:
        click.echo(f"New       {_format_changes(outcome.changes)}")
    if whole:
        click.echo(f"Rows      {outcome.place}/predictions.csv")
    for place in outcome.report_urls:
        click.echo(f"Report    {place}")
    told = [whole] if whole else outcome.own
    not_scored = any(manifest.not_scored for manifest in told)
    return EXIT_NOT_ALL_SCORED if not_scored and fail_not_scored else EXIT_OK


def _format_changes(since: RunChanges) -> str:
    return (
        f"{since.new} new, {since.changed} changed and {since.gone} gone since {since.run_date}; "
        f"{since.flagged} of the new and changed flagged"
    )
