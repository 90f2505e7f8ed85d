"""The options of ``cxr job``, and the job that they name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
import cloup

from batch_scorer.cli.options import (
    Quantity,
    access_options,
    gallery_options,
    model_options,
    output_option,
    report_options,
    scoring_options,
    tariff_options,
)
from batch_scorer.cli.score import job_of
from batch_scorer.results.shards import MOST_SHARDS
from batch_scorer.system.strict_json import LONGEST_TERM_S

if TYPE_CHECKING:
    from batch_scorer.cli.options import Command
    from batch_scorer.jobs.task import NightJob
    from batch_scorer.report.content.report_options import Drawing

SETTINGS = {"auto_envvar_prefix": "CXR_JOB"}
"""Of each command below ``cxr job``: one grammar of environment variables for all of them."""


ending_options = cloup.option_group(
    "End of a night",
    cloup.option("--report/--no-report", default=True, show_default=True, help="Draw it."),
    cloup.option(
        "--notify",
        multiple=True,
        metavar="URL",
        help="Tell there what the night came to: https://... (a webhook), mailto://..., "
        "slack://... and so on; may be repeated.",
    ),
    cloup.option(
        "--lease-s",
        type=Quantity(1, LONGEST_TERM_S),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="After so long without a sign of life, a task's work may be done by another.",
    ),
    cloup.option(
        "--fail-not-scored",
        is_flag=True,
        help="Exit with 3 where some files were not scored; else the report alone says so.",
    ),
)


def night_options(command: Command) -> Command:
    """Add IMAGES and every option that says what a task of a night does, for `night_job_of`."""
    for add in (
        ending_options,
        tariff_options,
        report_options,
        gallery_options,
        click.option(
            "--finish/--no-finish",
            default=True,
            show_default=True,
            help="Let the last task merge, report and renew latest/; else `cxr job finish` does.",
        ),
        click.option(
            "--rescore",
            is_flag=True,
            help="Score every film anew, as for another model; once.",
        ),
        click.option(
            "--execution",
            metavar="NAME",
            help="What the tasks of one start have in common, and no other start has. Default: the "
            "platform's name of it.",
        ),
        click.option(
            "--tasks",
            type=click.IntRange(1, MOST_SHARDS),
            help="Number of shares, for claim and Kubernetes.",
        ),
        click.option(
            "--shard",
            metavar="I/N|auto|claim",
            help="This task's share; auto asks the platform, claim takes one free share after "
            "another. Default: auto where the platform numbers its tasks, else everything.",
        ),
        access_options,
        scoring_options,
        model_options,
        output_option("Place of all nights, for nights/, latest/ and plans/."),
        click.argument("images", envvar="CXR_JOB_IMAGES"),
    ):
        command = add(command)
    return command


def night_job_of(
    *,
    shard: str | None,
    tasks: int | None,
    execution: str | None,
    drawing: Drawing,
    report: bool,
    **options: Any,
) -> NightJob:
    """The job that `night_options` name."""
    from batch_scorer.jobs.task import NightJob
    from batch_scorer.results.shards import choose_share, read_execution

    share, count = choose_share(shard, tasks, os.environ)
    ending = {name: options.pop(name) for name in ("rescore", "finish", "lease_s", "notify")}
    return NightJob(
        job_of(**options),
        tasks=count,
        shard=share,
        execution=read_execution(os.environ) if execution is None else execution,
        drawing=drawing if report else None,
        **ending,
    )
