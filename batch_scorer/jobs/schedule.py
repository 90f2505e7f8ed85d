"""Scheduled runs: opened by number, each with a spec that all its tasks share.

Specs are numbered in the order of the runs. Each number can be created only once, so if several
tasks start at the same time, one opens the run and the others join it. A run stays open until it is
published in ``latest/``, or until it turns out that nothing is new.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from batch_scorer.errors import AlreadyRunning, OutputError
from batch_scorer.jobs import latest
from batch_scorer.results import store
from batch_scorer.results.claim import check_claimable
from batch_scorer.results.schema import Gallery
from batch_scorer.results.shards import MAX_SHARDS, Shard
from batch_scorer.storage import lease
from batch_scorer.system.strict_json import (
    RUN_DATE_FORMAT,
    Count,
    RunDate,
    check_run_date,
    decode_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.results.schema import RunManifest
    from batch_scorer.storage.output import Output

RUNS_FOLDER = latest.RUNS_FOLDER
SPECS_FOLDER = "plans"
MAX_LOOKBACK_RUNS = 7
"""Maximum number of earlier specs to read, for a task that starts late."""
_SPEC_FILE = re.compile(rf"{SPECS_FOLDER}/([0-9]{{6,18}})\.json")
log = logging.getLogger(__name__)


class RunSpec(
    msgspec.Struct,
    frozen=True,
    rename={"config_hash": "method", "nonce": "opened_by", "run_date": "night"},
):
    """Specification of a scheduled run, on which its tasks must agree.

    ``config_hash`` identifies the models and the options that decide a score. ``execution`` is the
    platform's name for the start that the tasks belong to, empty if there is none. ``nonce`` is a
    random value that makes each spec unique.
    """

    source: str
    config_hash: str
    tasks: Annotated[int, Meta(ge=1, le=MAX_SHARDS)]
    labels: str = "folders"
    limit: Count | None = None
    gallery: Gallery = Gallery()
    rescore: bool = False
    execution: str = ""
    run_date: RunDate = ""
    nonce: str = ""

    def __post_init__(self) -> None:
        """Check the date, which msgspec's constraints cannot."""
        check_run_date(self.run_date)

    @property
    def as_requested(self) -> RunSpec:
        """The spec without the fields that are unique to one run."""
        return msgspec.structs.replace(self, run_date="", nonce="")

    def list_differences(self, other: RunSpec) -> list[str]:
        """List the names of fields that differ."""
        return [
            name
            for name in self.__struct_fields__
            if getattr(self.as_requested, name) != getattr(other.as_requested, name)
        ]


@dataclass(frozen=True)
class ScheduledRun:
    """One scheduled run of a job's output, identified by the number of its spec."""

    output: Output
    number: int
    spec: RunSpec

    @property
    def run_date(self) -> str:
        """Time of opening in UTC, such as 20261127-020000. Later runs have greater dates."""
        return self.spec.run_date

    @property
    def folder(self) -> str:
        """Folder of its results below the job's output."""
        return f"{RUNS_FOLDER}/{self.run_date}"

    @property
    def run_output(self) -> Output:
        """Output for its results."""
        return self.output.subfolder(self.folder)

    @property
    def shards(self) -> list[Shard]:
        """All its shards."""
        return [Shard(number, self.spec.tasks) for number in range(1, self.spec.tasks + 1)]

    def list_missing_shards(self) -> list[Shard]:
        """List the shards that are not finished yet."""
        suffix = f"/{store.RUN_FILE}"
        names = self.run_output.list_files("shards")
        done = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
        return [shard for shard in self.shards if shard.folder not in done]

    def read_final_manifest(self) -> RunManifest | None:
        """Read the manifest of a run with no work left; None while it is open."""
        manifest = store.read_manifest(self.run_output)
        if manifest is None:
            return None
        if manifest.changes and manifest.changes.unchanged:
            return manifest
        shown = latest.read_latest_manifest(self.output)
        return manifest if shown and shown.run_date >= self.run_date else None


def claim_job_output(output: Output) -> None:
    """Claim the output of a job.

    Raises:
        ForeignFile: Something under the names of its folders was not written by this program.
            Nothing was written.
        OutputError: The output cannot be read or written.
    """
    names = (
        SPECS_FOLDER,
        RUNS_FOLDER,
        latest.LATEST_FOLDER,
        latest.PUBLISHED_FOLDER,
        lease.LEASES_FOLDER,
    )
    if not output.has_record and not _has_run(output):
        output.refuse_foreign_folders(*names)
    output.refuse_links(*names)
    check_claimable(output.subfolder(latest.LATEST_FOLDER))
    output.prepare()
    if not output.has_record:
        output.add_to_record({})


def _has_run(output: Output) -> bool:
    """Return whether a version that kept no record opened a run here."""
    try:
        return find_scheduled_run(output) is not None
    except OutputError:
        return False


def join_scheduled_run(
    output: Output, requested: RunSpec, term_s: float, sleep: Callable[[float], None]
) -> ScheduledRun:
    """Join the open run with the same spec, or open a new run.

    Args:
        output: The job's output.
        requested: The spec, without a run date.
        term_s: Seconds without a sign of life after which an open run with another spec counts as
            abandoned.
        sleep: Waits for a number of seconds; may raise to stop waiting.

    Returns:
        The run. It may be finished already, if this task is late or repeats one that is done.

    Raises:
        AlreadyRunning: Another run is in progress.
        OutputError: A newer execution has replaced the spec's execution.
    """
    while True:
        newest = find_scheduled_run(output)
        if (
            newest
            and newest.spec.as_requested == requested
            and (requested.execution or not newest.read_final_manifest())
        ):
            return newest
        if newest:
            _check_not_superseded(newest, requested)
            _wait_until_abandoned(newest, requested, term_s, sleep)
        if run := _open_run(output, requested, newest):
            return run


def find_scheduled_run(output: Output, number: int | None = None) -> ScheduledRun | None:
    """Find the newest run, or the run with a number; None if there is none.

    Raises:
        OutputError: Its spec cannot be read.
    """
    if number is None:
        matches = filter(None, map(_SPEC_FILE.fullmatch, output.list_files(SPECS_FOLDER)))
        numbers = [int(match[1]) for match in matches if match[0] == _spec_path(int(match[1]))]
        number = max(numbers, default=0)
    data = output.read(_spec_path(number)) if number > 0 else None
    if data is None:
        return None
    what = f"The run spec {_spec_path(number)} in {output.url}"
    return ScheduledRun(
        output, number, decode_json(data, RunSpec, what, "Remove it to open a new run.")
    )


def find_abandoned_runs(run: ScheduledRun) -> list[ScheduledRun]:
    """Find the unfinished runs just before this one, newest first, to reuse their rows."""
    found: list[ScheduledRun] = []
    for number in range(run.number - 1, max(run.number - 1 - MAX_LOOKBACK_RUNS, 0), -1):
        earlier = find_scheduled_run(run.output, number)
        if earlier is None or earlier.read_final_manifest():
            break
        found.append(earlier)
    return found


def _spec_path(number: int) -> str:
    return f"{SPECS_FOLDER}/{number:06d}.json"


def _open_run(
    output: Output, requested: RunSpec, newest: ScheduledRun | None
) -> ScheduledRun | None:
    """Open the next run; None if another task has just opened it."""
    number = newest.number + 1 if newest else 1
    published = latest.read_newest_manifest(output)
    after = max(newest.run_date if newest else "", published.run_date if published else "")
    run_date = make_run_date(datetime.now(UTC), after)
    spec = msgspec.structs.replace(requested, run_date=run_date, nonce=secrets.token_hex(8))
    if not output.create(_spec_path(number), msgspec.json.encode(spec)):
        return None
    return ScheduledRun(output, number, spec)


def make_run_date(now: datetime, after: str) -> str:
    """Return the current time as a run date, made greater than ``after`` if clocks differ."""
    run_date = now.strftime(RUN_DATE_FORMAT)
    if run_date > after:
        return run_date
    last = datetime.strptime(after, RUN_DATE_FORMAT).replace(tzinfo=UTC)
    return (last + timedelta(seconds=1)).strftime(RUN_DATE_FORMAT)


def _check_not_superseded(newest: ScheduledRun, requested: RunSpec) -> None:
    """Refuse a task whose own run was followed by another: it has no work left.

    Raises:
        OutputError: A newer execution has replaced this one.
    """
    if not requested.execution or newest.spec.execution == requested.execution:
        return
    for number in range(newest.number - 1, max(newest.number - 1 - MAX_LOOKBACK_RUNS, 0), -1):
        earlier = find_scheduled_run(newest.output, number)
        if earlier and earlier.spec.execution == requested.execution:
            raise OutputError(
                f"Cannot join the run {earlier.run_date} of {requested.execution}: the newer run "
                f"{newest.run_date} replaced it.",
                "Nothing is left to do.",
            )


def _wait_until_abandoned(
    newest: ScheduledRun, requested: RunSpec, term_s: float, sleep: Callable[[float], None]
) -> None:
    """Wait until no task works any longer on an open run with another spec.

    Raises:
        AlreadyRunning: A task works on it.
    """
    if newest.read_final_manifest():
        return
    differences = ", ".join(newest.spec.list_differences(requested))
    log.info(
        "run %s is open with other settings (%s): abandoned after %g s without a sign of life",
        *(newest.run_date, differences, term_s),
        extra={"event": "waiting", "fields": {"night": newest.run_date, "seconds": term_s}},
    )
    watchers: dict[str, lease.LeaseWatcher] = {}
    since = time.monotonic()
    while True:
        names = lease.list_leases(newest.run_output)
        states = [
            watchers.setdefault(name, lease.LeaseWatcher(newest.run_output, name)).poll()
            for name in names
        ]
        if lease.LeaseState.ALIVE in states or newest.read_final_manifest():
            raise AlreadyRunning(
                f"The run {newest.run_date} of {newest.output.url} is in progress with other "
                f"settings ({differences}).",
                "Wait until it is done, then run the same command again.",
            )
        if time.monotonic() - since >= term_s and lease.LeaseState.SILENT not in states:
            return
        sleep(lease.poll_interval_s(term_s))
