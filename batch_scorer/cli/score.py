"""cxr score, cxr merge and cxr report: options -> job -> one call -> exit code."""

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

log = logging.getLogger("cxr")


@cloup.command(epilog="Example: cxr score my-xrays -o out --model all --labels none")
@click.argument("images")
@output_option("Place for predictions.csv, predictions.parquet, run.json and the report.")
@model_options
@scoring_options
@access_options
@click.option(
    "--shard",
    metavar="I/N|auto",
    help="Score one of N shares, 1/N to N/N, for `cxr merge`; auto asks the platform.",
)
@gallery_options
@report_options
@cost_options
@metrics_option
@click.option("--report/--no-report", default=True, show_default=True, help="Draw the report.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Score 50 films, write nothing, and say how long all would take and how much memory.",
)
@click.option(
    "--deadline-h",
    type=FiniteFloatRange(0, min_open=True),
    metavar="HOURS",
    help="With --dry-run: say how many shards are done in so many hours.",
)
def score(
    report: bool,
    dry_run: bool,
    deadline_h: float | None,
    drawing: ReportOptions,
    gauges: MetricsFile,
    **options: Any,
) -> int:
    """Score the X-rays in IMAGES: a folder, a bucket URL, a list of films or one film.

    Every file ends in one row of predictions.csv. Exit codes: 0 all scored, 1 the run failed,
    2 wrong usage, 3 finished but some files were not scored, 75 interrupted, try again.
    """
    from batch_scorer.engine.runner import run_score_job
    from batch_scorer.storage.output_lock import OutputLock

    job = make_score_job(**options)
    if dry_run:
        return _print_forecast(job, deadline_h)
    if deadline_h:
        raise click.UsageError("--deadline-h goes with --dry-run, which scores nothing.")
    stop = GracefulStop()
    with OutputLock(job.place, stop) as lock:
        with ProgressReporter() as progress, stop:
            manifest = run_score_job(job, progress, stop, lock)
        if not progress.told:
            click.echo("New       nothing: every film has its row already")
        code = _finish_run(job.place, manifest, drawing if report and not job.shard else None, lock)
    gauges.tell(manifest)
    return code


def make_score_job(
    model: tuple[str, ...],
    identifiers: str,
    identifiers_key: Path | None,
    shard: str | None = None,
    **options: Any,
) -> ScoreJob:
    """The job that the options of `model_options`, `scoring_options` and `gallery_options` name."""
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
@click.argument("output", metavar="FOLDER|URL")
@click.option("--report/--no-report", default=True, show_default=True, help="Draw the report.")
@report_options
def merge(output: str, report: bool, drawing: ReportOptions) -> int:
    """Join the shards in OUTPUT, the place that was given to `cxr score --shard`.

    The rows are those of a run without shards. A shard that is missing is named, and nothing is
    written. Exit codes as for `cxr score`.
    """
    from batch_scorer.results.merge import merge_shards
    from batch_scorer.storage.output import open_output
    from batch_scorer.storage.output_lock import OutputLock

    with OutputLock(place := open_output(output)) as lock:
        return _finish_run(place, merge_shards(output, lock), drawing if report else None, lock)


def _print_forecast(job: ScoreJob, deadline_h: float | None) -> int:
    """Say what a run would take."""
    from batch_scorer.engine.dry_run import forecast_run, format_forecast

    click.echo(format_forecast(forecast_run(job), deadline_h, job.core_hour_price))
    return EXIT_OK


def _finish_run(
    place: Output, manifest: RunManifest, drawing: ReportOptions | None, lock: OutputLock
) -> int:
    """Say what came of a run, draw its report where that is asked for, choose the exit code."""
    from batch_scorer.results.store import CSV_FILE

    print_summary(manifest)
    click.echo(f"Rows      {place.url}/{CSV_FILE}")
    if drawing:
        from batch_scorer.report.formats.draw import draw_missing_reports

        for drawn in draw_missing_reports(place, drawing, lock):
            click.echo(f"Report    {drawn}")
    return EXIT_NOT_ALL_SCORED if manifest.not_scored else EXIT_OK


class GracefulStop:
    """Whether a signal asked to stop: the first lets the batch be finished, a second does not.

    Until the work asks for the first time there is no batch to finish: a signal ends it at once.
    After the second one the process ends within a second, whatever a read or a thread waits for.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    LAST_S = 1.0

    def __init__(self) -> None:
        self._asked = self._begun = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __call__(self) -> bool:
        """Whether it was asked."""
        self._begun = True
        return self._asked

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._force_exit_soon()
        at_once = self._asked or not self._begun
        self._asked = True
        if at_once:
            signal.default_int_handler(number, frame)
        words = "\nFinishing this batch; once more stops at once."
        if logs_json():
            words = format_event("stopping", "warning", {})
        # Written whole and at once: a handler of signals may not wait for the log's lock.
        os.write(sys.stderr.fileno(), f"{words}\n".encode())

    def _force_exit_soon(self) -> None:
        """End the process, where the exception of the second signal has not done so by then."""
        if not hasattr(signal, "setitimer"):  # Windows
            os._exit(EXIT_RETRY)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_RETRY))
        signal.setitimer(signal.ITIMER_REAL, self.LAST_S)


class ProgressReporter:
    """A bar with rate and time left on a terminal, a line of the log now and then elsewhere."""

    LINE_EVERY_S = 30
    RATE_AFTER_S = 1  # batches come in turns: of the first few no rate can be told

    def __enter__(self) -> Self:
        self.told = False
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()
        self._first: tuple[int, float] | None = None
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of so many films are done."""
        self.told = True
        if logs_json():
            self._log(done, total)
        elif sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="film", desc="Scoring", leave=False)
            self._bar.update(done - self._bar.n)
        elif done == total or time.monotonic() - self._last_line > self.LINE_EVERY_S:
            self._last_line = time.monotonic()
            log.info("scored %d of %d films", done, total)

    def _log(self, done: int, total: int) -> None:
        """One JSON line of the first batch, of the last one, and now and then between."""
        from batch_scorer.storage.filesystem import count_retries

        now = time.monotonic()
        first, since = self._first or (done, now)
        if self._first and done < total and now - self._last_line < self.LINE_EVERY_S:
            return
        self._first, self._last_line = (first, since), now
        rate = round((done - first) / (now - since), 1) if now - since > self.RATE_AFTER_S else None
        log_event(
            "progress", done=done, found=total, films_per_second=rate, retries=count_retries()
        )

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def print_summary(manifest: RunManifest) -> None:
    """Say what came of a run."""
    from batch_scorer.results.usage import describe_cost

    click.echo(
        f"Files     {manifest.found} found = {manifest.scored} scored "
        f"+ {manifest.rejected} rejected + {manifest.failed} failed"
        + (f" ({_format_reasons(manifest.reasons)})" if manifest.reasons else "")
    )
    synthetic = " synthetic" if manifest.synthetic else ""
    click.echo(
        f"Films     {manifest.scored}{synthetic} scored: {manifest.flagged} flagged, "
        f"{manifest.not_flagged} clear"
        + ("" if manifest.undecided is None else f", {manifest.undecided} uncertain")
        + ("" if manifest.atypical is None else f", {manifest.atypical} atypical")
        + (f", {manifest.duplicates} copies" if manifest.duplicates else "")
    )
    if manifest.reused:
        click.echo(
            f"Reused    {manifest.reused} rows of an earlier run, "
            f"{manifest.found - manifest.reused} scored in this one"
        )
    names = " ".join(f"{model.name} {model.sha256[:12]}" for model in manifest.models)
    rate = f", {manifest.images_per_second} films/s" if manifest.scored else ""
    click.echo(f"Models    {names} on {manifest.provider}{rate}")
    if manifest.cost:
        click.echo(f"Price     {describe_cost(manifest.cost, manifest.core_seconds)}")
    scores = " · ".join(
        f"{part.model} accuracy {_format_metric(part, 'accuracy')} AUC {_format_metric(part, 'auc')}"
        for part in manifest.metrics
    )
    click.echo(f"Labels    {manifest.labelled} films with a label{': ' if scores else ''}{scores}")


def _format_reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


def _format_metric(part: BatchMetrics, name: str) -> str:
    value = part.metrics[name].value
    return "undefined" if value is None else f"{value:.3f}"
