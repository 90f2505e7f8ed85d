"""cxr job run, finish and status: options -> TaskSpec -> one call -> exit code."""

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
    """Score new images on a schedule, in one task or in parallel.

    Each option also reads the environment variable CXR_JOB_<OPTION>; IMAGES reads CXR_JOB_IMAGES.
    """


@job.command(
    cls=cloup.Command,
    context_settings=CONTEXT_SETTINGS,
    epilog="Example: cxr job run s3://hospital/xrays -o out",
)
@task_options
@metrics_option
def run(fail_not_scored: bool, metrics_file: MetricsFile, **options: Any) -> int:
    """Score the images in IMAGES that are new since the last run.

    The first task opens a run, other tasks join it, and the last one merges the shards and draws
    the report. Exit codes: 0 the task is done, 1 it failed, 2 wrong usage, 3 some files were not
    scored (with --fail-not-scored), 75 interrupted or another task does the same work: retry.
    """
    from batch_scorer.jobs.task import run_task

    task = make_task_spec(**options)
    with ProgressReporter() as progress, GracefulStop() as stop:
        outcome = run_task(task, progress, stop)
    metrics_file.set_result(
        outcome.manifest or next(iter(outcome.task_manifests[-1:]), None), outcome.task_manifests
    )
    return _print_outcome(outcome, fail_not_scored=fail_not_scored)


@job.command(
    cls=cloup.Command, context_settings=CONTEXT_SETTINGS, epilog="Example: cxr job finish -o out"
)
@output_option("Output of `cxr job run`.")
@metrics_option
@finalize_options
@report_options
def finish(
    output: str,
    report: bool,
    report_options: ReportOptions,
    metrics_file: MetricsFile,
    fail_not_scored: bool,
    **options: Any,
) -> int:
    """Merge, report and publish the newest run, unless already done.

    Fails if a shard is missing, and names it. Exit codes as for `cxr job run`.
    """
    from batch_scorer.jobs.finalize import FinalizeOptions, finalize_newest_run

    outcome = finalize_newest_run(
        FinalizeOptions(output, report_options if report else None, **options)
    )
    metrics_file.set_result(outcome.manifest, own=())
    return _print_outcome(outcome, fail_not_scored=fail_not_scored)


@job.command(
    cls=cloup.Command, context_settings=CONTEXT_SETTINGS, epilog="Example: cxr job status -o out"
)
@output_option("Output of `cxr job run`.")
def status(output: str) -> int:
    """Show the newest run, its missing shards and latest/."""
    from batch_scorer.jobs.latest import LATEST_FOLDER, read_newest_manifest
    from batch_scorer.jobs.schedule import find_scheduled_run
    from batch_scorer.storage.output import open_output

    job_output = open_output(output)
    newest, published = find_scheduled_run(job_output), read_newest_manifest(job_output)
    if newest is None:
        click.echo(f"Run       none yet in {job_output.url}")
    elif newest.read_final_manifest():
        click.echo(f"Run       {newest.run_date} is finished")
    else:
        missing = ", ".join(map(str, newest.list_missing_shards()))
        click.echo(f"Run       {newest.run_date} is open: " + (missing or "no shard") + " missing")
    if published:
        click.echo(f"Latest    {job_output.url}/{LATEST_FOLDER}: the run {published.run_date}")
        print_summary(published)
    return EXIT_OK


def _print_outcome(outcome: TaskOutcome, *, fail_not_scored: bool) -> int:
    """Print the outcome of a task or a run, and choose the exit code."""
    click.echo(
        f"Run       {outcome.run_date}{' was already finished' if outcome.already_finished else ''}"
    )
    manifests = [outcome.manifest] if outcome.manifest else outcome.task_manifests
    for manifest in manifests:
        print_summary(manifest)
    if outcome.missing_shards:
        missing = ", ".join(map(str, outcome.missing_shards))
        click.echo(f"Waiting   for {len(outcome.missing_shards)} more: {missing}")
    if outcome.nothing_new and outcome.changes:
        click.echo(
            f"New       nothing since {outcome.changes.run_date}: {outcome.latest_url} is unchanged"
        )
    elif outcome.changes:
        click.echo(f"New       {_format_changes(outcome.changes)}")
    if outcome.manifest:
        click.echo(f"Rows      {outcome.run_url}/predictions.csv")
    for url in outcome.report_urls:
        click.echo(f"Report    {url}")
    not_scored = any(manifest.not_scored for manifest in manifests)
    return EXIT_NOT_ALL_SCORED if not_scored and fail_not_scored else EXIT_OK


def _format_changes(changes: RunChanges) -> str:
    return (
        f"{changes.new} new, {changes.changed} changed and {changes.gone} gone since "
        f"{changes.run_date}; {changes.flagged} of the new and changed flagged"
    )
