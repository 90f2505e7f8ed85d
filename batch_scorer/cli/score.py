"""cxr score and cxr merge: options -> job -> one call -> exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import click
import cloup

from batch_scorer.cli.options import (
    FiniteFloatRange,
    access_options,
    cost_options,
    gallery_options,
    metrics_option,
    model_options,
    output_option,
    report_options,
    scoring_options,
)
from batch_scorer.errors import EXIT_NOT_ALL_SCORED, EXIT_OK, EXIT_RETRY
from batch_scorer.system.log import format_event, log_event, logs_json

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from tqdm import tqdm

    from batch_scorer.cli.prometheus import MetricsFile
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.results.schema import BatchMetrics, RunManifest
    from batch_scorer.storage.output import Output
    from batch_scorer.storage.output_lock import OutputLock

log = logging.getLogger(__name__)


@cloup.command(epilog="Example: cxr score my-xrays -o out --model all --labels none")
@click.argument("images")
@output_option("Output for predictions.csv, predictions.parquet, run.json and the report.")
@model_options
@scoring_options
@access_options
@click.option(
    "--shard",
    metavar="I/N|auto",
    help="Score one of N shards, 1/N to N/N, for `cxr merge`; auto reads it from the platform.",
)
@gallery_options
@report_options
@cost_options
@metrics_option
@click.option("--report/--no-report", default=True, show_default=True, help="Draw the report.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Score 50 images, write nothing, and print the time and memory that all images need.",
)
@click.option(
    "--deadline-h",
    type=FiniteFloatRange(0, min_open=True),
    metavar="HOURS",
    help="With --dry-run: print the number of shards that finish within this time.",
)
def score(
    report: bool,
    dry_run: bool,
    deadline_h: float | None,
    report_options: ReportOptions,
    metrics_file: MetricsFile,
    **options: Any,
) -> int:
    """Score chest X-rays for pneumonia; write rows and a report.

    IMAGES is a folder, a bucket URL, an image list or one image. Every file gets one row in
    predictions.csv. Exit codes: 0 all scored, 1 the run failed, 2 wrong usage, 3 finished but some
    files were not scored, 75 interrupted: retry.
    """
    from batch_scorer.engine.runner import run_score_job
    from batch_scorer.storage.output_lock import OutputLock

    job = make_score_job(**options)
    if dry_run:
        return _print_forecast(job, deadline_h)
    if deadline_h:
        raise click.UsageError("--deadline-h requires --dry-run.")
    stop = GracefulStop()
    with OutputLock(job.own_output, stop) as lock:
        with ProgressReporter() as progress, stop:
            manifest = run_score_job(job, progress, stop, lock)
        if not progress.called:
            click.echo("New       nothing: every image already has a row")
        code = _finish_run(
            job.own_output, manifest, report_options if report and not job.shard else None, lock
        )
    metrics_file.set_result(manifest)
    return code


def make_score_job(
    model: tuple[str, ...],
    identifiers: str,
    identifiers_key: Path | None,
    shard: str | None = None,
    **options: Any,
) -> ScoreJob:
    """Create the job that the options of scoring, models and report images specify."""
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.imaging.deidentify import Deidentifier
    from batch_scorer.model.classifier import expand_model_names
    from batch_scorer.results.shards import parse_shard

    return ScoreJob(
        models=expand_model_names(model),
        shard=parse_shard(shard, os.environ) if shard else None,
        identifiers=Deidentifier.from_options(identifiers, identifiers_key),
        **options,
    )


@cloup.command(epilog="Example: cxr merge out")
@click.argument("output")
@click.option("--report/--no-report", default=True, show_default=True, help="Draw the report.")
@report_options
def merge(output: str, report: bool, report_options: ReportOptions) -> int:
    """Merge the shards of `cxr score --shard` into one result.

    OUTPUT is the output that was given to `cxr score --shard`. The rows equal those of a run
    without shards. Fails if a shard is missing, names it, and writes nothing. Exit codes as for
    `cxr score`.
    """
    from batch_scorer.results.merge import merge_shards
    from batch_scorer.storage.output import open_output
    from batch_scorer.storage.output_lock import OutputLock

    with OutputLock(run_output := open_output(output)) as lock:
        return _finish_run(
            run_output, merge_shards(output, lock), report_options if report else None, lock
        )


def _print_forecast(job: ScoreJob, deadline_h: float | None) -> int:
    """Print the forecast of a run."""
    from batch_scorer.engine.dry_run import forecast_run, format_forecast

    click.echo(format_forecast(forecast_run(job), deadline_h, job.core_hour_price))
    return EXIT_OK


def _finish_run(
    output: Output, manifest: RunManifest, report_options: ReportOptions | None, lock: OutputLock
) -> int:
    """Print a run's summary, draw its report if requested, and choose the exit code."""
    from batch_scorer.results.store import CSV_FILE

    print_summary(manifest)
    click.echo(f"Rows      {output.url}/{CSV_FILE}")
    if report_options:
        from batch_scorer.report.formats.draw import draw_missing_reports

        for path in draw_missing_reports(output, report_options, lock):
            click.echo(f"Report    {path}")
    return EXIT_NOT_ALL_SCORED if manifest.not_scored else EXIT_OK


class GracefulStop:
    """Stop request by signal: the first one lets the batch finish, a second one does not.

    Before the work calls this for the first time there is no batch to finish, so a signal stops at
    once. After a second signal the process ends within a second, even if a read or a thread blocks.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    FORCED_EXIT_S = 1.0

    def __init__(self) -> None:
        self._stop_requested = self._started = False

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._handle_signal) for number in self.SIGNALS
        }
        return self

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        self._started = True
        return self._stop_requested

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            self._force_exit_soon()
        at_once = self._stop_requested or not self._started
        self._stop_requested = True
        if at_once:
            signal.default_int_handler(number, frame)
        message = "\nFinishing this batch. Interrupt again to stop at once."
        if logs_json():
            message = format_event("stopping", "warning", {})
        # One direct write: a signal handler must not wait for the log's lock.
        os.write(sys.stderr.fileno(), f"{message}\n".encode())

    def _force_exit_soon(self) -> None:
        """Exit in a second, unless the second signal's exception has ended the process by then."""
        if not hasattr(signal, "setitimer"):  # Windows
            os._exit(EXIT_RETRY)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_RETRY))
        signal.setitimer(signal.ITIMER_REAL, self.FORCED_EXIT_S)


class ProgressReporter:
    """Progress bar with rate and time left on a terminal; occasional log lines otherwise."""

    LOG_INTERVAL_S = 30
    MIN_RATE_TIME_S = 1  # too few batches before that for a rate

    def __enter__(self) -> Self:
        self.called = False
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()
        self._first: tuple[int, float] | None = None
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show how many of all images are done."""
        self.called = True
        if logs_json():
            self._log(done, total)
        elif sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="image", desc="Scoring", leave=False)
            self._bar.update(done - self._bar.n)
        elif done == total or time.monotonic() - self._last_line > self.LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            log.info("scored %d of %d images", done, total)

    def _log(self, done: int, total: int) -> None:
        """Log JSON progress for the first batch, the last one, and at intervals in between."""
        from batch_scorer.storage.filesystem import count_retries

        now = time.monotonic()
        first, since = self._first or (done, now)
        if self._first and done < total and now - self._last_line < self.LOG_INTERVAL_S:
            return
        self._first, self._last_line = (first, since), now
        rate = (
            round((done - first) / (now - since), 1) if now - since > self.MIN_RATE_TIME_S else None
        )
        log_event(
            "progress", done=done, found=total, films_per_second=rate, retries=count_retries()
        )

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def print_summary(manifest: RunManifest) -> None:
    """Print the summary of a run."""
    from batch_scorer.results.usage import describe_cost

    click.echo(
        f"Files     {manifest.found} found = {manifest.scored} scored "
        f"+ {manifest.rejected} rejected + {manifest.failed} failed"
        + (f" ({_format_reasons(manifest.reasons)})" if manifest.reasons else "")
    )
    synthetic = " synthetic" if manifest.synthetic else ""
    click.echo(
        f"Images    {manifest.scored}{synthetic} scored: {manifest.flagged} flagged, "
        f"{manifest.not_flagged} not flagged"
        + ("" if manifest.undecided is None else f", {manifest.undecided} undecided")
        + ("" if manifest.atypical is None else f", {manifest.atypical} atypical")
        + (f", {manifest.duplicates} copies" if manifest.duplicates else "")
    )
    if manifest.reused:
        click.echo(
            f"Reused    {manifest.reused} rows of an earlier run, "
            f"{manifest.found - manifest.reused} processed in this one"
        )
    names = " ".join(f"{model.name} {model.sha256[:12]}" for model in manifest.models)
    rate = f", {manifest.images_per_second} images/s" if manifest.scored else ""
    click.echo(f"Models    {names} on {manifest.provider}{rate}")
    if manifest.cost:
        click.echo(f"Cost      {describe_cost(manifest.cost, manifest.core_seconds)}")
    scores = " · ".join(
        f"{part.model} accuracy {_format_metric(part, 'accuracy')} "
        f"AUC {_format_metric(part, 'auc')}"
        for part in manifest.metrics
    )
    click.echo(f"Labels    {manifest.labelled} labelled images{': ' if scores else ''}{scores}")


def _format_reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


def _format_metric(part: BatchMetrics, name: str) -> str:
    value = part.metrics[name].value
    return "undefined" if value is None else f"{value:.3f}"
