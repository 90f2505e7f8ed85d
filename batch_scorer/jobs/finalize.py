"""The end of a night: merge its shards, say what is new, draw the report, renew ``latest/``."""

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
log = logging.getLogger("cxr.job")


@dataclass(frozen=True)
class TaskOutcome:
    """What came of a task's part of a night, or of the whole night.

    ``manifest`` is the whole night's, None while other tasks are at work; ``missing`` are the
    shares that are not finished. ``report_urls`` says where each report lies, ``place`` where the
    night's own files do, and ``latest`` where the newest finished night's. ``own`` is what this
    task scored. ``already_finished`` says that the night had been finished before.
    """

    run_date: str
    place: str
    latest: str
    manifest: RunManifest | None = None
    report_urls: tuple[str, ...] = ()
    missing: tuple[Shard, ...] = ()
    own: tuple[RunManifest, ...] = ()
    already_finished: bool = False

    @property
    def changes(self) -> RunChanges | None:
        """What is new in the night, against the one before it."""
        return self.manifest.changes if self.manifest else None

    @property
    def nothing_new(self) -> bool:
        """Whether every row is as it was, so that the latest report stays."""
        return bool(self.changes and self.changes.unchanged)


@dataclass(frozen=True)
class FinalizeOptions:
    """How a night is ended.

    ``url`` is the place of all nights; ``report_options`` says how the report is drawn (None: not at all).
    ``load_model`` loads the first model by its file's SHA-256, for the evidence maps; without it,
    that is tried with the bundled one. ``sleep`` waits for so many seconds. ``notify`` are the
    addresses that learn what the night came to. ``access`` is what the run may read.
    """

    url: str
    report_options: ReportOptions | None = DEFAULT_OPTIONS
    lease_s: float = DEFAULT_TERM_S
    load_model: Callable[[str], Classifier | None] | None = None
    sleep: Callable[[float], None] = time.sleep
    notify: tuple[str, ...] = ()
    access: AccessPolicy | None = None


def make_outcome(night: ScheduledRun, **found: Any) -> TaskOutcome:
    """The outcome of a night."""
    newest = night.output.subfolder(latest.LATEST_FOLDER)
    return TaskOutcome(night.name, night.place.url, newest.url, **found)


def finalize_newest_run(ending: FinalizeOptions) -> TaskOutcome:
    """End the newest night, where that is not done yet.

    Raises:
        LedgerError: There is no night, or a share of it is missing.
        Occupied: Another task is at it.
    """
    check_addresses(ending.notify)
    output = open_output(ending.url)
    night = schedule.find_scheduled_run(output)
    if night is None:
        raise OutputError(
            f"Expected a night in {output.url}, found none.",
            f"Begin one with: cxr job run IMAGES -o {output.url}",
        )
    if manifest := night.closed():
        return make_outcome(night, manifest=manifest, already_finished=True)
    if missing := night.missing():
        names = ", ".join(map(str, missing[:MAX_LISTED_SHARDS]))
        raise OutputError(
            f"Expected {night.spec.tasks} finished shards of the night {night.name} in "
            f"{output.url}, found {night.spec.tasks - len(missing)}: missing {names}"
            + (
                f" and {len(missing) - MAX_LISTED_SHARDS} more."
                if missing[MAX_LISTED_SHARDS:]
                else "."
            ),
            f"Run each again: cxr job run IMAGES -o {output.url} --shard {missing[0]}",
        )
    bind_fields(night=night.name)
    with acquire_finalize_lease(night, ending) as lease:
        outcome = finalize_run(night, ending, lease)
    notify_outcome(outcome, ending)
    return outcome


def acquire_finalize_lease(night: ScheduledRun, ending: FinalizeOptions) -> Lease:
    """The lease of whoever ends a night.

    Raises:
        Occupied: Another task is at it.
    """
    return acquire_lease(night.output, FINALIZE_LEASE, ending.lease_s, ending.sleep)


def finalize_run(night: ScheduledRun, ending: FinalizeOptions, lease: Lease) -> TaskOutcome:
    """Merge, report and publish a night whose shares are all finished, once.

    Args:
        night: The night.
        ending: How it is ended.
        lease: That of `hold_end`, held.

    Raises:
        Occupied: Another task took the lease over.
        CxrError: The shares do not belong together, or cannot be read, drawn or written.
    """
    if manifest := night.closed():
        return make_outcome(night, manifest=manifest, already_finished=True)
    newest = latest.read_newest_manifest(night.output)
    if newest and newest.run_date > night.name:
        raise OutputError(
            f"The night {night.name} was followed by {newest.run_date}, which is finished.",
            "Nothing is left to do.",
        )
    if newest and newest.run_date == night.name:  # it was published, and then cut off
        latest.update_latest(night.output)
        return make_outcome(night, manifest=newest)
    manifest = _merge_shards(night, ending, lease)
    if manifest.changes and manifest.changes.unchanged:
        latest.update_latest(night.output)
        return make_outcome(night, manifest=manifest)
    if ending.report_options:
        draw_report(f"{ending.url.rstrip('/')}/{night.folder}", ending.report_options, lease)
    place = latest.publish(night.output, night.number, night.name, lease.check)
    formats = ending.report_options.formats if ending.report_options else ()
    reports = tuple(f"{place}/{REPORT_FILES[name]}" for name in formats)
    return make_outcome(night, manifest=manifest, report_urls=reports)


def notify_outcome(outcome: TaskOutcome, ending: FinalizeOptions) -> None:
    """Say what a night came to, in the log and to whoever is to be notified, once.

    A night whose end cannot be told has ended all the same.
    """
    manifest = outcome.manifest
    if manifest is None or outcome.already_finished:
        return
    log_event(
        "night_finished", nothing_new=outcome.nothing_new, since=_changes_to_dict(outcome.changes)
    )
    if not ending.notify:
        return
    title = ending.report_options.branding.title if ending.report_options else ""
    rows_at = outcome.latest if outcome.nothing_new else f"{outcome.place}/{CSV_FILE}"
    try:
        rows = read_run(open_output(outcome.place)).rows
    except CxrError as exc:
        log.warning("The notice was not sent: %s", exc)
        return
    at = outcome.report_urls[0] if outcome.report_urls else rows_at
    send_notification(ending.notify, make_notification(manifest, rows, title, at))


def _changes_to_dict(since: RunChanges | None) -> dict[str, Any]:
    return msgspec.to_builtins(since) if since else {}


def _merge_shards(night: ScheduledRun, ending: FinalizeOptions, lease: Lease) -> RunManifest:
    """Put the night's own run in place, every row dated, and say what is new."""
    joined = read_shards(night.place, night.shards)
    rows, run = joined.rows, joined.run
    earlier = latest.read_newest_run(night.output)
    dates = assign_run_dates(rows, earlier, night.name)
    since = compare_runs(rows, dates, earlier, night.name) if earlier else None
    if since and earlier and _has_same_report(joined.manifests[0], earlier.manifest):
        same = (rows, dates) == (earlier.rows, read_run_dates(earlier))
        since = msgspec.structs.replace(since, unchanged=same)
    dated = replace(
        run,
        facts=msgspec.structs.replace(run.facts, run_date=night.name, changes=since),
        extra_columns={RUN_DATE_COLUMN: dates},
        gallery_rows=select_rows_of_date(rows, dates, night.name),
    )
    return commit_merged(
        night.place.with_guard(lease.check),
        dated,
        ending.load_model,
        ending.access,
        with_report_images=since is None or not since.unchanged,
    )


def _has_same_report(shard: RunManifest, earlier: RunManifest) -> bool:
    """Whether a report would say the same of the same rows."""
    asked = [(m.gallery.heatmaps, m.gallery.review_minutes) for m in (shard, earlier)]
    return (shard.config_hash, shard.source, asked[0]) == (
        earlier.config_hash,
        earlier.source,
        asked[1],
    )
