"""Options of ``cxr job``, and the task that they specify."""

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
"""Settings that give all commands below ``cxr job`` one prefix of environment variables."""


finalize_options = cloup.option_group(
    "End of a run",
    cloup.option("--report/--no-report", default=True, show_default=True, help="Draw the report."),
    cloup.option(
        "--notify",
        multiple=True,
        metavar="URL",
        help="Address to notify of a finished run: https://... (webhook), mailto://..., "
        "slack://...; repeatable.",
    ),
    cloup.option(
        "--lease-s",
        type=FiniteFloatRange(1, MAX_LEASE_TERM_S),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="Time without a sign of life after which another task may redo a task's work.",
    ),
    cloup.option(
        "--fail-not-scored",
        is_flag=True,
        help="Exit with 3 if some files were not scored. Default: only the report says so.",
    ),
)


def task_options(command: Command) -> Command:
    """Add IMAGES and every option that specifies a task, for `make_task_spec`."""
    for add in (
        finalize_options,
        cost_options,
        report_options,
        gallery_options,
        click.option(
            "--finish/--no-finish",
            default=True,
            show_default=True,
            help="Let the last task merge, report and update latest/; without, run `cxr job "
            "finish`.",
        ),
        click.option(
            "--rescore",
            is_flag=True,
            help="Score every image again without reusing rows, for example with a new model.",
        ),
        click.option(
            "--execution",
            metavar="NAME",
            help="Name that the tasks of one start share, different for each start. Default: the "
            "platform's execution ID.",
        ),
        click.option(
            "--tasks",
            metavar="N",
            type=click.IntRange(1, MAX_SHARDS),
            help="Number of shards, for --shard claim and for Kubernetes.",
        ),
        click.option(
            "--shard",
            metavar="I/N|auto|claim",
            help="Shard of this task: I/N, auto (read from the platform) or claim (free shards, "
            "one after another). Default: auto if the platform numbers its tasks, else all "
            "images.",
        ),
        access_options,
        scoring_options,
        model_options,
        output_option("Output of all runs: nights/, latest/ and plans/."),
        click.argument("images", envvar="CXR_JOB_IMAGES"),
    ):
        command = add(command)
    return command


def make_task_spec(
    *,
    shard: str | None,
    tasks: int | None,
    execution: str | None,
    report_options: ReportOptions,
    report: bool,
    **options: Any,
) -> TaskSpec:
    """Create the task that the options of `task_options` specify."""
    from batch_scorer.jobs.task import TaskSpec
    from batch_scorer.results.shards import read_execution_id, select_shard

    own_shard, count = select_shard(shard, tasks, os.environ)
    task_fields = {name: options.pop(name) for name in ("rescore", "finish", "lease_s", "notify")}
    return TaskSpec(
        make_score_job(**options),
        tasks=count,
        shard=own_shard,
        execution=read_execution_id(os.environ) if execution is None else execution,
        report_options=report_options if report else None,
        **task_fields,
    )
