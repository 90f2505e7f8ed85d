"""The end of a night: merge its shards, say what is new, draw the report, renew ``latest/``."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import CxrError, LedgerError
from batch_scorer.jobs import latest, schedule
from batch_scorer.jobs.diff import date_rows, tell_since
from batch_scorer.jobs.notify import announce, check_addresses, describe_night
from batch_scorer.report.content.report_options import AS_USUAL, Drawing
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.results.merge import commit_joined, join_shards
from batch_scorer.results.run_dates import COLUMN, first_written, read_run_dates
from batch_scorer.results.store import CSV_FILE, REPORT_FILES, read_run
from batch_scorer.storage.lease import TERM_S, acquire_lease
from batch_scorer.storage.output import open_output
from batch_scorer.system.log import bind, log_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.jobs.schedule import Night
    from batch_scorer.model.classifier import Classifier
    from batch_scorer.results.schema import RunManifest, Since
    from batch_scorer.results.shards import Shard
    from batch_scorer.storage.access import Access
    from batch_scorer.storage.lease import Lease

LEASE = "finish"
MOST_NAMED = 20
log = logging.getLogger("cxr.job")


@dataclass(frozen=True)
class NightOutcome:
    """What came of a task's part of a night, or of the whole night.

    ``manifest`` is the whole night's, None while other tasks are at work; ``missing`` are the
    shares that are not finished. ``reports`` says where each report lies, ``place`` where the
    night's own files do, and ``latest`` where the newest finished night's. ``own`` is what this
    task scored. ``again`` says that the night had been finished before.
    """

    night: str
    place: str
    latest: str
    manifest: RunManifest | None = None
    reports: tuple[str, ...] = ()
    missing: tuple[Shard, ...] = ()
    own: tuple[RunManifest, ...] = ()
    again: bool = False

    @property
    def since(self) -> Since | None:
        """What is new in the night, against the one before it."""
        return self.manifest.since if self.manifest else None

    @property
    def nothing_new(self) -> bool:
        """Whether every row is as it was, so that the latest report stays."""
        return bool(self.since and self.since.same)


@dataclass(frozen=True)
class Ending:
    """How a night is ended.

    ``url`` is the place of all nights; ``drawing`` says how the report is drawn (None: not at all).
    ``load_model`` loads the first model by its file's SHA-256, for the evidence maps; without it,
    that is tried with the bundled one. ``pause`` waits for so many seconds. ``notify`` are the
    addresses that learn what the night came to. ``access`` is what the run may read.
    """

    url: str
    drawing: Drawing | None = AS_USUAL
    lease_s: float = TERM_S
    load_model: Callable[[str], Classifier | None] | None = None
    pause: Callable[[float], None] = time.sleep
    notify: tuple[str, ...] = ()
    access: Access | None = None


def tell(night: Night, **found: Any) -> NightOutcome:
    """The outcome of a night."""
    newest = night.output.below(latest.FOLDER)
    return NightOutcome(night.name, night.place.url, newest.url, **found)


def finish_night(ending: Ending) -> NightOutcome:
    """End the newest night, where that is not done yet.

    Raises:
        LedgerError: There is no night, or a share of it is missing.
        Occupied: Another task is at it.
    """
    check_addresses(ending.notify)
    output = open_output(ending.url)
    night = schedule.find_night(output)
    if night is None:
        raise LedgerError(
            f"Expected a night in {output.url}, found none.",
            f"Begin one with: cxr job run IMAGES -o {output.url}",
        )
    if manifest := night.closed():
        return tell(night, manifest=manifest, again=True)
    if missing := night.missing():
        names = ", ".join(map(str, missing[:MOST_NAMED]))
        raise LedgerError(
            f"Expected {night.plan.tasks} finished shards of the night {night.name} in "
            f"{output.url}, found {night.plan.tasks - len(missing)}: missing {names}"
            + (f" and {len(missing) - MOST_NAMED} more." if missing[MOST_NAMED:] else "."),
            f"Run each again: cxr job run IMAGES -o {output.url} --shard {missing[0]}",
        )
    bind(night=night.name)
    with hold_end(night, ending) as lease:
        outcome = end_night(night, ending, lease)
    tell_people(outcome, ending)
    return outcome


def hold_end(night: Night, ending: Ending) -> Lease:
    """The lease of whoever ends a night.

    Raises:
        Occupied: Another task is at it.
    """
    return acquire_lease(night.output, LEASE, ending.lease_s, ending.pause)


def end_night(night: Night, ending: Ending, lease: Lease) -> NightOutcome:
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
        return tell(night, manifest=manifest, again=True)
    newest = latest.read_latest(night.output)
    if newest and newest.run_date > night.name:
        raise LedgerError(
            f"The night {night.name} was followed by {newest.run_date}, which is finished.",
            "Nothing is left to do.",
        )
    if newest and newest.run_date == night.name:  # it was published, and then cut off
        latest.renew(night.output)
        return tell(night, manifest=newest)
    manifest = _merge(night, ending, lease)
    if manifest.since and manifest.since.same:
        latest.renew(night.output)
        return tell(night, manifest=manifest)
    if ending.drawing:
        draw_report(f"{ending.url.rstrip('/')}/{night.folder}", ending.drawing, lease)
    place = latest.publish(night.output, night.number, night.name, lease.check)
    formats = ending.drawing.formats if ending.drawing else ()
    reports = tuple(f"{place}/{REPORT_FILES[name]}" for name in formats)
    return tell(night, manifest=manifest, reports=reports)


def tell_people(outcome: NightOutcome, ending: Ending) -> None:
    """Say what a night came to, in the log and to whoever is to be notified, once.

    A night whose end cannot be told has ended all the same.
    """
    manifest = outcome.manifest
    if manifest is None or outcome.again:
        return
    log_event("night_finished", nothing_new=outcome.nothing_new, since=_numbers(outcome.since))
    if not ending.notify:
        return
    title = ending.drawing.branding.title if ending.drawing else ""
    rows_at = outcome.latest if outcome.nothing_new else f"{outcome.place}/{CSV_FILE}"
    try:
        rows = read_run(open_output(outcome.place)).rows
    except CxrError as exc:
        log.warning("The notice was not sent: %s", exc)
        return
    at = outcome.reports[0] if outcome.reports else rows_at
    announce(ending.notify, describe_night(manifest, rows, title, at))


def _numbers(since: Since | None) -> dict[str, Any]:
    return msgspec.to_builtins(since) if since else {}


def _merge(night: Night, ending: Ending, lease: Lease) -> RunManifest:
    """Put the night's own run in place, every row dated, and say what is new."""
    joined = join_shards(night.place, night.shards)
    rows, run = joined.rows, joined.run
    earlier = latest.read_earlier(night.output)
    dates = date_rows(rows, earlier, night.name)
    since = tell_since(rows, dates, earlier, night.name) if earlier else None
    if since and earlier and _alike(joined.manifests[0], earlier.manifest):
        same = (rows, dates) == (earlier.rows, read_run_dates(earlier))
        since = msgspec.structs.replace(since, same=same)
    dated = replace(
        run,
        facts=msgspec.structs.replace(run.facts, run_date=night.name, since=since),
        added={COLUMN: dates},
        shown=first_written(rows, dates, night.name),
    )
    return commit_joined(
        night.place.guarded(lease.check),
        dated,
        ending.load_model,
        ending.access,
        pictures=since is None or not since.same,
    )


def _alike(shard: RunManifest, earlier: RunManifest) -> bool:
    """Whether a report would say the same of the same rows."""
    asked = [(m.gallery.heatmaps, m.gallery.review_minutes) for m in (shard, earlier)]
    return (shard.method, shard.source, asked[0]) == (earlier.method, earlier.source, asked[1])
