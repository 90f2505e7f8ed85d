"""cxr job run, finish and status: options -> NightJob -> one call -> exit code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from batch_scorer.commands import Progress, Stop, job_of, print_summary
from batch_scorer.errors import EXIT_NOT_ALL_SCORED, EXIT_OK
from batch_scorer.options import (
    gallery_options,
    metrics_option,
    model_options,
    output_option,
    report_options,
    scoring_options,
    tariff_options,
)

if TYPE_CHECKING:
    from batch_scorer.gauges import Gauges
    from batch_scorer.job.finish import NightOutcome
    from batch_scorer.options import Command
    from batch_scorer.records import Since
    from batch_scorer.report.drawing import Drawing

_SETTINGS = {"auto_envvar_prefix": "CXR_JOB"}
"""Of each command below ``cxr job``: one grammar of environment variables for all of them."""


def ending_options(command: Command) -> Command:
    """Add --notify, --report, --lease-s and --fail-not-scored."""
    for add in (
        click.option(
            "--fail-not-scored",
            is_flag=True,
            help="Exit with 3 where some files were not scored; else the report alone says so.",
        ),
        click.option(
            "--lease-s",
            type=click.FloatRange(1),
            default=60,
            show_default=True,
            metavar="SECONDS",
            help="After so long without a sign of life, a task's work may be done by another.",
        ),
        click.option(
            "--notify",
            multiple=True,
            metavar="URL",
            help="Tell there what the night came to: https://... (a webhook), mailto://..., "
            "slack://... and so on; may be repeated.",
        ),
        click.option("--report/--no-report", default=True, show_default=True, help="Draw it."),
    ):
        command = add(command)
    return command


@click.group()
def job() -> None:
    """Score what is new, night by night, in one task or many.

    Each option also reads CXR_JOB_<OPTION>, IMAGES reads CXR_JOB_IMAGES.
    """


@job.command(context_settings=_SETTINGS, epilog="Example: cxr job run s3://hospital/films -o out")
@click.argument("images", envvar="CXR_JOB_IMAGES")
@output_option("Place of all nights, for nights/, latest/ and plans/.")
@model_options
@scoring_options
@click.option(
    "--shard",
    metavar="I/N|auto|claim",
    help="This task's share; auto asks the platform, claim takes one free share after another. "
    "Default: auto where the platform numbers its tasks, else everything.",
)
@click.option("--tasks", type=click.IntRange(1), help="Number of shares, for claim and Kubernetes.")
@click.option(
    "--execution",
    metavar="NAME",
    help="What the tasks of one start have in common, and no other start has. Default: the "
    "platform's name of it.",
)
@click.option("--rescore", is_flag=True, help="Score every film anew, as for another model; once.")
@click.option(
    "--finish/--no-finish",
    default=True,
    show_default=True,
    help="Let the last task merge, report and renew latest/; else `cxr job finish` does.",
)
@gallery_options
@tariff_options
@metrics_option
@ending_options
@report_options
def run(
    shard: str | None,
    tasks: int | None,
    execution: str | None,
    drawing: Drawing,
    gauges: Gauges,
    **options: Any,
) -> int:
    """Score this task's share of the films in IMAGES that are new since the last night.

    The first task opens a night, the others join it, and the last one merges and reports. Exit
    codes: 0 the task is done, 1 it failed, 2 wrong usage, 75 interrupted or another task is at the
    same work, try again.
    """
    from batch_scorer.job.night import NightJob, run_night
    from batch_scorer.shards import choose_share, read_execution

    share, count = choose_share(shard, tasks, os.environ)
    ending = {name: options.pop(name) for name in ("rescore", "finish", "lease_s", "notify")}
    fail_not_scored, report = options.pop("fail_not_scored"), options.pop("report")
    night_job = NightJob(
        job_of(**options),
        tasks=count,
        shard=share,
        execution=read_execution(os.environ) if execution is None else execution,
        drawing=drawing if report else None,
        **ending,
    )
    with Progress() as progress, Stop() as stop:
        outcome = run_night(night_job, progress, stop)
    gauges.tell(outcome.manifest or next(iter(outcome.own[-1:]), None), outcome.own)
    return _conclude(outcome, fail_not_scored=fail_not_scored)


@job.command(context_settings=_SETTINGS, epilog="Example: cxr job finish -o out")
@output_option("Place of all nights, as it was given to `cxr job run`.")
@metrics_option
@ending_options
@report_options
def finish(
    output: str,
    report: bool,
    drawing: Drawing,
    gauges: Gauges,
    fail_not_scored: bool,
    **ending: Any,
) -> int:
    """Merge, report and renew latest/ for the newest night, where that is not done yet.

    A share that is missing is named. Exit codes as for `cxr job run`.
    """
    from batch_scorer.job.finish import Ending, finish_night

    outcome = finish_night(Ending(output, drawing if report else None, **ending))
    gauges.tell(outcome.manifest, own=())
    return _conclude(outcome, fail_not_scored=fail_not_scored)


@job.command(context_settings=_SETTINGS, epilog="Example: cxr job status -o out")
@output_option("Place of all nights, as it was given to `cxr job run`.")
def status(output: str) -> int:
    """Say which night is the newest, what of it is missing, and what stands in latest/."""
    from batch_scorer.job.latest import FOLDER, read_latest
    from batch_scorer.job.nights import find_night
    from batch_scorer.output import open_output

    place = open_output(output)
    night, newest = find_night(place), read_latest(place)
    if night is None:
        click.echo(f"Night     none yet in {place.url}")
    elif night.closed():
        click.echo(f"Night     {night.name} is finished")
    else:
        missing = ", ".join(map(str, night.missing()))
        click.echo(f"Night     {night.name} is open: " + (missing or "no share") + " missing")
    if newest:
        click.echo(f"Latest    {place.url}/{FOLDER}: the night {newest.night}")
        print_summary(newest)
    return EXIT_OK


def _conclude(outcome: NightOutcome, *, fail_not_scored: bool) -> int:
    """Say what came of a task or a night; choose the exit code."""
    click.echo(f"Night     {outcome.night}{' was finished before' if outcome.again else ''}")
    whole = outcome.manifest
    for manifest in [whole] if whole else outcome.own:
        print_summary(manifest)
    if outcome.missing:
        waiting = ", ".join(map(str, outcome.missing))
        click.echo(f"Waiting   for {len(outcome.missing)} more: {waiting}")
    if outcome.nothing_new and outcome.since:
        click.echo(f"New       nothing since {outcome.since.night}: {outcome.latest} stays")
    elif outcome.since:
        click.echo(f"New       {_say_new(outcome.since)}")
    if whole:
        click.echo(f"Rows      {outcome.place}/predictions.csv")
    for place in outcome.reports:
        click.echo(f"Report    {place}")
    told = [whole] if whole else outcome.own
    not_scored = any(manifest.not_scored for manifest in told)
    return EXIT_NOT_ALL_SCORED if not_scored and fail_not_scored else EXIT_OK


def _say_new(since: Since) -> str:
    return (
        f"{since.new} new, {since.changed} changed and {since.gone} gone since {since.night}; "
        f"{since.flagged} of the new and changed flagged"
    )
