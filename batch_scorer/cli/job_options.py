"""The options of ``cxr job``, and the job that they name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
import cloup

from batch_scorer.cli.options import (
    FiniteFloatRange,
    access_options,
    cost_options,
    gallery_options,
    model_options,
    output_option,
    report_options,
    scoring_options,
)
from batch_scorer.cli.score import make_score_job
from batch_scorer.results.shards import MAX_SHARDS
from batch_scorer.system.strict_json import MAX_LEASE_TERM_S

if TYPE_CHECKING:
    from batch_scorer.cli.options import Command
    from batch_scorer.jobs.task import TaskSpec
    from batch_scorer.report.content.report_options import ReportOptions

CONTEXT_SETTINGS = {"auto_envvar_prefix": "CXR_JOB"}
"""Of each command below ``cxr job``: one grammar of environment variables for all of them."""


finalize_options = cloup.option_group(
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
        type=FiniteFloatRange(1, MAX_LEASE_TERM_S),
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


def task_options(command: Command) -> Command:
    """Add IMAGES and every option that says what a task of a night does, for `night_job_of`."""
    for add in (
        finalize_options,
        cost_options,
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
            type=click.IntRange(1, MAX_SHARDS),
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


def make_task_spec(
    *,
    shard: str | None,
    tasks: int | None,
    execution: str | None,
    drawing: ReportOptions,
    report: bool,
    **options: Any,
) -> TaskSpec:
    """The job that `night_options` name."""
    from batch_scorer.jobs.task import TaskSpec
    from batch_scorer.results.shards import read_execution_id, select_shard

    share, count = select_shard(shard, tasks, os.environ)
    ending = {name: options.pop(name) for name in ("rescore", "finish", "lease_s", "notify")}
    return TaskSpec(
        make_score_job(**options),
        tasks=count,
        shard=share,
        execution=read_execution_id(os.environ) if execution is None else execution,
        report_options=drawing if report else None,
        **ending,
    )
