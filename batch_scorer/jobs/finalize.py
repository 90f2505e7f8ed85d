"""Finalize a scheduled run: merge shards, count changes, draw the report, update ``latest/``."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import CxrError, OutputError
from batch_scorer.jobs import latest, schedule
from batch_scorer.jobs.diff import assign_run_dates, compare_runs
from batch_scorer.jobs.notify import check_addresses, make_notification, send_notification
from batch_scorer.report.content.report_options import DEFAULT_OPTIONS, ReportOptions
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.results.merge import commit_merged, read_shards
from batch_scorer.results.run_dates import RUN_DATE_COLUMN, read_run_dates, select_rows_of_date
from batch_scorer.results.store import CSV_FILE, REPORT_FILES, read_run
from batch_scorer.storage.lease import DEFAULT_TERM_S, acquire_lease
from batch_scorer.storage.output import open_output
from batch_scorer.system.log import bind_fields, log_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.jobs.schedule import ScheduledRun
    from batch_scorer.model.classifier import Classifier
    from batch_scorer.results.schema import RunChanges, RunManifest
    from batch_scorer.results.shards import Shard
    from batch_scorer.storage.access import AccessPolicy
    from batch_scorer.storage.lease import Lease

FINALIZE_LEASE = "finish"
MAX_LISTED_SHARDS = 20
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskOutcome:
    """Result of one task of a scheduled run, or of the whole run.

    ``manifest`` is the whole run's, None while other tasks still work on it. ``missing_shards`` are
    not finished yet. ``report_urls`` locate the reports, ``run_url`` the run's own files, and
    ``latest_url`` the files of the newest finished run. ``task_manifests`` are those of the shards
    that this task scored. ``already_finished`` is True if the run had been finished before this
    task.
    """

    run_date: str
    run_url: str
    latest_url: str
    manifest: RunManifest | None = None
    report_urls: tuple[str, ...] = ()
    missing_shards: tuple[Shard, ...] = ()
    task_manifests: tuple[RunManifest, ...] = ()
    already_finished: bool = False

    @property
    def changes(self) -> RunChanges | None:
        """Changes since the run before."""
        return self.manifest.changes if self.manifest else None

    @property
    def nothing_new(self) -> bool:
        """True if no row has changed, so that the latest report stays."""
        return bool(self.changes and self.changes.unchanged)


@dataclass(frozen=True)
class FinalizeOptions:
    """Options for finalizing a scheduled run.

    ``url`` is the job's output. ``report_options`` says how the report is drawn, None draws none.
    ``load_model`` loads the first model by its file's SHA-256, for the evidence maps; by default
    the bundled model is tried. ``sleep`` waits for a number of seconds. ``notify`` are the
    addresses that receive the result. ``access`` limits the files and addresses that the run may
    read.
    """

    url: str
    report_options: ReportOptions | None = DEFAULT_OPTIONS
    lease_s: float = DEFAULT_TERM_S
    load_model: Callable[[str], Classifier | None] | None = None
    sleep: Callable[[float], None] = time.sleep
    notify: tuple[str, ...] = ()
    access: AccessPolicy | None = None


def make_outcome(run: ScheduledRun, **fields: Any) -> TaskOutcome:
    """Create the outcome of a scheduled run."""
    newest = run.output.subfolder(latest.LATEST_FOLDER)
    return TaskOutcome(run.run_date, run.run_output.url, newest.url, **fields)


def finalize_newest_run(options: FinalizeOptions) -> TaskOutcome:
    """Finalize the newest scheduled run, unless that is done already.

    Raises:
        OutputError: There is no run, or one of its shards is missing.
        AlreadyRunning: Another task is finalizing it.
    """
    check_addresses(options.notify)
    output = open_output(options.url)
    run = schedule.find_scheduled_run(output)
    if run is None:
        raise OutputError(
            f"Expected a scheduled run in {output.url}, found none.",
            f"Start one with: cxr job run IMAGES -o {output.url}",
        )
    if manifest := run.read_final_manifest():
        return make_outcome(run, manifest=manifest, already_finished=True)
    if missing_shards := run.list_missing_shards():
        names = ", ".join(map(str, missing_shards[:MAX_LISTED_SHARDS]))
        raise OutputError(
            f"Expected {run.spec.tasks} finished shards of the run {run.run_date} in "
            f"{output.url}, found {run.spec.tasks - len(missing_shards)}: missing {names}"
            + (
                f" and {len(missing_shards) - MAX_LISTED_SHARDS} more."
                if missing_shards[MAX_LISTED_SHARDS:]
                else "."
            ),
            f"Run each again: cxr job run IMAGES -o {output.url} --shard {missing_shards[0]}",
        )
    bind_fields(night=run.run_date)
    with acquire_finalize_lease(run, options) as lease:
        outcome = finalize_run(run, options, lease)
    notify_outcome(outcome, options)
    return outcome


def acquire_finalize_lease(run: ScheduledRun, options: FinalizeOptions) -> Lease:
    """Acquire the lease that permits one task to finalize a run.

    Raises:
        AlreadyRunning: Another task holds it.
    """
    return acquire_lease(run.output, FINALIZE_LEASE, options.lease_s, options.sleep)


def finalize_run(run: ScheduledRun, options: FinalizeOptions, lease: Lease) -> TaskOutcome:
    """Merge, report and publish a run whose shards are all finished, exactly once.

    Args:
        run: The run.
        options: The options.
        lease: The lease of `acquire_finalize_lease`.

    Raises:
        AlreadyRunning: Another task has taken the lease.
        CxrError: The shards do not belong together, or cannot be read, drawn or written.
    """
    if manifest := run.read_final_manifest():
        return make_outcome(run, manifest=manifest, already_finished=True)
    newest = latest.read_newest_manifest(run.output)
    if newest and newest.run_date > run.run_date:
        raise OutputError(
            f"Cannot finalize the run {run.run_date}: the newer run {newest.run_date} is finished.",
            "Nothing is left to do.",
        )
    if newest and newest.run_date == run.run_date:  # it was interrupted after publishing
        latest.update_latest(run.output)
        return make_outcome(run, manifest=newest)
    manifest = _merge_shards(run, options, lease)
    if manifest.changes and manifest.changes.unchanged:
        latest.update_latest(run.output)
        return make_outcome(run, manifest=manifest)
    if options.report_options:
        draw_report(f"{options.url.rstrip('/')}/{run.folder}", options.report_options, lease)
    latest_url = latest.publish(run.output, run.number, run.run_date, lease.check)
    formats = options.report_options.formats if options.report_options else ()
    reports = tuple(f"{latest_url}/{REPORT_FILES[name]}" for name in formats)
    return make_outcome(run, manifest=manifest, report_urls=reports)


def notify_outcome(outcome: TaskOutcome, options: FinalizeOptions) -> None:
    """Log a finished run and notify its addresses, once.

    A failed notification does not fail the run.
    """
    manifest = outcome.manifest
    if manifest is None or outcome.already_finished:
        return
    log_event(
        "night_finished", nothing_new=outcome.nothing_new, since=_changes_to_dict(outcome.changes)
    )
    if not options.notify:
        return
    title = options.report_options.branding.title if options.report_options else ""
    rows_url = outcome.latest_url if outcome.nothing_new else f"{outcome.run_url}/{CSV_FILE}"
    try:
        rows = read_run(open_output(outcome.run_url)).rows
    except CxrError as exc:
        log.warning("The notification was not sent: %s", exc)
        return
    report_url = outcome.report_urls[0] if outcome.report_urls else rows_url
    send_notification(options.notify, make_notification(manifest, rows, title, report_url))


def _changes_to_dict(changes: RunChanges | None) -> dict[str, Any]:
    return msgspec.to_builtins(changes) if changes else {}


def _merge_shards(run: ScheduledRun, options: FinalizeOptions, lease: Lease) -> RunManifest:
    """Commit the run's merged rows, each with the date of its first run, and count the changes."""
    merged = read_shards(run.run_output, run.shards)
    rows, scored_run = merged.rows, merged.run
    earlier = latest.read_newest_run(run.output)
    dates = assign_run_dates(rows, earlier, run.run_date)
    changes = compare_runs(rows, dates, earlier, run.run_date) if earlier else None
    if changes and earlier and _has_same_report(merged.manifests[0], earlier.manifest):
        same = (rows, dates) == (earlier.rows, read_run_dates(earlier))
        changes = msgspec.structs.replace(changes, unchanged=same)
    dated = replace(
        scored_run,
        facts=msgspec.structs.replace(scored_run.facts, run_date=run.run_date, changes=changes),
        extra_columns={RUN_DATE_COLUMN: dates},
        gallery_rows=select_rows_of_date(rows, dates, run.run_date),
    )
    return commit_merged(
        run.run_output.with_guard(lease.check),
        dated,
        options.load_model,
        options.access,
        with_report_images=changes is None or not changes.unchanged,
    )


def _has_same_report(shard: RunManifest, earlier: RunManifest) -> bool:
    """Return whether a report would say the same about the same rows."""
    settings = [(m.gallery.heatmaps, m.gallery.review_minutes) for m in (shard, earlier)]
    return (shard.config_hash, shard.source, settings[0]) == (
        earlier.config_hash,
        earlier.source,
        settings[1],
    )
