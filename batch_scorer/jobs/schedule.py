"""Which night is open, and its plan, which all its tasks share.

Plans are numbered in the order of the nights. The next number can be created only once, so however
many tasks arrive at the same time, one opens the night and the others join it. A night is open
until its run stands in ``latest/``, or until it was found that nothing is new.
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
"""So many plans before the newest are looked at, for a start that comes late."""
_SPEC_FILE = re.compile(rf"{SPECS_FOLDER}/([0-9]{{6,18}})\.json")
log = logging.getLogger("cxr.job")


class RunSpec(
    msgspec.Struct,
    frozen=True,
    rename={"config_hash": "method", "nonce": "opened_by", "run_date": "night"},
):
    """What a night is to do: what its tasks must agree on.

    ``config_hash`` names models and options that decide an answer; ``execution`` is the platform's name
    of the start that the tasks belong to, empty where there is none; ``nonce`` is of no meaning
    and unlike any other.
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
        """Check what msgspec's constraints cannot say."""
        check_run_date(self.run_date)

    @property
    def as_requested(self) -> RunSpec:
        """The plan without what is only this night's."""
        return msgspec.structs.replace(self, run_date="", nonce="")

    def list_differences(self, other: RunSpec) -> list[str]:
        """Names of what differs."""
        return [
            name
            for name in self.__struct_fields__
            if getattr(self.as_requested, name) != getattr(other.as_requested, name)
        ]


@dataclass(frozen=True)
class ScheduledRun:
    """One night of an output place, by the number of its plan."""

    output: Output
    number: int
    spec: RunSpec

    @property
    def name(self) -> str:
        """When it was opened: 20261127-020000, in UTC; later nights have greater names."""
        return self.spec.run_date

    @property
    def folder(self) -> str:
        """Where its results lie below the output."""
        return f"{RUNS_FOLDER}/{self.name}"

    @property
    def place(self) -> Output:
        """Where its results lie."""
        return self.output.subfolder(self.folder)

    @property
    def shards(self) -> list[Shard]:
        """All its shares."""
        return [Shard(number, self.spec.tasks) for number in range(1, self.spec.tasks + 1)]

    def missing(self) -> list[Shard]:
        """The shares that are not finished yet."""
        suffix = f"/{store.RUN_FILE}"
        names = self.place.list_files("shards")
        done = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
        return [shard for shard in self.shards if shard.folder not in done]

    def closed(self) -> RunManifest | None:
        """Its run, where the night is over: nothing of it is left to do."""
        manifest = store.read_manifest(self.place)
        if manifest is None:
            return None
        if manifest.changes and manifest.changes.unchanged:
            return manifest
        shown = latest.read_latest_manifest(self.output)
        return manifest if shown and shown.run_date >= self.name else None


def claim_job_output(output: Output) -> None:
    """Claim the place of all nights.

    Raises:
        ForeignFile: Something under the names of its folders was not written by this program.
            Nothing was written.
        LedgerError: It cannot be read or written.
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
    """Whether a version that kept no record opened a night here."""
    try:
        return find_scheduled_run(output) is not None
    except OutputError:
        return False


def join_scheduled_run(
    output: Output, asked: RunSpec, term_s: float, pause: Callable[[float], None]
) -> ScheduledRun:
    """The open night where it is by the same plan; else a new one, opened by this task or another.

    Args:
        output: The place of all nights.
        asked: The plan, without a night.
        term_s: For how long an open night by another plan must give no sign of life.
        pause: Waits for so many seconds; may raise to end the waiting.

    Returns:
        The night. It is closed already where this task is late, a repetition of one that was done.

    Raises:
        Occupied: Another night is under way.
        LedgerError: The plan's execution was followed by another one already.
    """
    while True:
        newest = find_scheduled_run(output)
        if (
            newest
            and newest.spec.as_requested == asked
            and (asked.execution or not newest.closed())
        ):
            return newest
        if newest:
            _check_not_superseded(newest, asked)
            _wait_until_abandoned(newest, asked, term_s, pause)
        if night := _open_run(output, asked, newest):
            return night


def find_scheduled_run(output: Output, number: int | None = None) -> ScheduledRun | None:
    """The newest night, or the one of that number; None where there is none.

    Raises:
        LedgerError: Its plan cannot be read.
    """
    if number is None:
        matches = filter(None, map(_SPEC_FILE.fullmatch, output.list_files(SPECS_FOLDER)))
        numbers = [int(match[1]) for match in matches if match[0] == _spec_path(int(match[1]))]
        number = max(numbers, default=0)
    data = output.read(_spec_path(number)) if number > 0 else None
    if data is None:
        return None
    what = f"The plan {_spec_path(number)} in {output.url}"
    return ScheduledRun(
        output, number, decode_json(data, RunSpec, what, "Remove it to open a new night.")
    )


def find_abandoned_runs(night: ScheduledRun) -> list[ScheduledRun]:
    """The nights just before this one that were never closed: their rows need not be lost."""
    found: list[ScheduledRun] = []
    for number in range(night.number - 1, max(night.number - 1 - MAX_LOOKBACK_RUNS, 0), -1):
        earlier = find_scheduled_run(night.output, number)
        if earlier is None or earlier.closed():
            break
        found.append(earlier)
    return found


def _spec_path(number: int) -> str:
    return f"{SPECS_FOLDER}/{number:06d}.json"


def _open_run(output: Output, asked: RunSpec, newest: ScheduledRun | None) -> ScheduledRun | None:
    """Open the next night; None where another task just did."""
    number = newest.number + 1 if newest else 1
    published = latest.read_newest_manifest(output)
    after = max(newest.name if newest else "", published.run_date if published else "")
    name = make_run_date(datetime.now(UTC), after)
    plan = msgspec.structs.replace(asked, run_date=name, nonce=secrets.token_hex(8))
    if not output.create(_spec_path(number), msgspec.json.encode(plan)):
        return None
    return ScheduledRun(output, number, plan)


def make_run_date(now: datetime, after: str) -> str:
    """A name that is greater than ``after``, whatever the machines' clocks say."""
    name = now.strftime(RUN_DATE_FORMAT)
    if name > after:
        return name
    last = datetime.strptime(after, RUN_DATE_FORMAT).replace(tzinfo=UTC)
    return (last + timedelta(seconds=1)).strftime(RUN_DATE_FORMAT)


def _check_not_superseded(newest: ScheduledRun, asked: RunSpec) -> None:
    """A task that comes after its own night was followed by another has nothing to do any more."""
    if not asked.execution or newest.spec.execution == asked.execution:
        return
    for number in range(newest.number - 1, max(newest.number - 1 - MAX_LOOKBACK_RUNS, 0), -1):
        earlier = find_scheduled_run(newest.output, number)
        if earlier and earlier.spec.execution == asked.execution:
            raise OutputError(
                f"The night {earlier.name} of {asked.execution} was followed by {newest.name}.",
                "Nothing is left to do.",
            )


def _wait_until_abandoned(
    newest: ScheduledRun, asked: RunSpec, term_s: float, pause: Callable[[float], None]
) -> None:
    """Wait until it is sure that nobody works on an open night by another plan.

    Raises:
        Occupied: Somebody does.
    """
    if newest.closed():
        return
    differences = ", ".join(newest.spec.list_differences(asked))
    log.info(
        "the night %s is open by another plan (%s): given up if it gives no sign of life for %g s",
        *(newest.name, differences, term_s),
        extra={"event": "waiting", "fields": {"night": newest.name, "seconds": term_s}},
    )
    watches: dict[str, lease.LeaseWatcher] = {}
    since = time.monotonic()
    while True:
        names = lease.list_leases(newest.place)
        sights = [watches.setdefault(n, lease.LeaseWatcher(newest.place, n)).poll() for n in names]
        if lease.LeaseState.ALIVE in sights or newest.closed():
            raise AlreadyRunning(
                f"The night {newest.name} of {newest.output.url} is under way by another plan: "
                f"it differs in {differences}.",
                "Wait until it is done, then run the same command again.",
            )
        if time.monotonic() - since >= term_s and lease.LeaseState.SILENT not in sights:
            return
        pause(lease.poll_interval_s(term_s))
