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

from batch_scorer.errors import LedgerError, Occupied
from batch_scorer.jobs import latest
from batch_scorer.results import store
from batch_scorer.results.claim import check_run
from batch_scorer.results.schema import Gallery
from batch_scorer.results.shards import MOST_SHARDS, Shard
from batch_scorer.storage import lease
from batch_scorer.system.strict_json import (
    RUN_DATE_FORMAT,
    Count,
    RunDate,
    check_run_date,
    decode_stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.results.schema import RunManifest
    from batch_scorer.storage.output import Output

FOLDER = latest.NIGHTS_FOLDER
PLANS_FOLDER = "plans"
LOOK_BACK = 7
"""So many plans before the newest are looked at, for a start that comes late."""
_PLAN = re.compile(rf"{PLANS_FOLDER}/([0-9]{{6,18}})\.json")
log = logging.getLogger("cxr.job")


class Plan(msgspec.Struct, frozen=True):
    """What a night is to do: what its tasks must agree on.

    ``method`` names models and options that decide an answer; ``execution`` is the platform's name
    of the start that the tasks belong to, empty where there is none; ``opened_by`` is of no meaning
    and unlike any other.
    """

    source: str
    method: str
    tasks: Annotated[int, Meta(ge=1, le=MOST_SHARDS)]
    labels: str = "folders"
    limit: Count | None = None
    gallery: Gallery = Gallery()
    rescore: bool = False
    execution: str = ""
    night: RunDate = ""
    opened_by: str = ""

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_run_date(self.night)

    @property
    def asked(self) -> Plan:
        """The plan without what is only this night's."""
        return msgspec.structs.replace(self, night="", opened_by="")

    def differences(self, other: Plan) -> list[str]:
        """Names of what differs."""
        return [
            name
            for name in self.__struct_fields__
            if getattr(self.asked, name) != getattr(other.asked, name)
        ]


@dataclass(frozen=True)
class Night:
    """One night of an output place, by the number of its plan."""

    output: Output
    number: int
    plan: Plan

    @property
    def name(self) -> str:
        """When it was opened: 20261127-020000, in UTC; later nights have greater names."""
        return self.plan.night

    @property
    def folder(self) -> str:
        """Where its results lie below the output."""
        return f"{FOLDER}/{self.name}"

    @property
    def place(self) -> Output:
        """Where its results lie."""
        return self.output.below(self.folder)

    @property
    def shards(self) -> list[Shard]:
        """All its shares."""
        return [Shard(number, self.plan.tasks) for number in range(1, self.plan.tasks + 1)]

    def missing(self) -> list[Shard]:
        """The shares that are not finished yet."""
        suffix = f"/{store.RUN_FILE}"
        names = self.place.names("shards")
        done = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
        return [shard for shard in self.shards if shard.folder not in done]

    def closed(self) -> RunManifest | None:
        """Its run, where the night is over: nothing of it is left to do."""
        manifest = store.read_manifest(self.place)
        if manifest is None:
            return None
        if manifest.since and manifest.since.same:
            return manifest
        shown = latest.read_shown(self.output)
        return manifest if shown and shown.run_date >= self.name else None


def claim_nights(output: Output) -> None:
    """Claim the place of all nights.

    Raises:
        ForeignFile: Something under the names of its folders was not written by this program.
            Nothing was written.
        LedgerError: It cannot be read or written.
    """
    names = (PLANS_FOLDER, FOLDER, latest.FOLDER, latest.PUBLISHED_FOLDER, lease.FOLDER)
    if not output.claimed and not _has_plan(output):
        output.refuse_foreign_folders(*names)
    output.refuse_links(*names)
    check_run(output.below(latest.FOLDER))
    output.prepare()
    if not output.claimed:
        output.enter({})


def _has_plan(output: Output) -> bool:
    """Whether a version that kept no record opened a night here."""
    try:
        return find_night(output) is not None
    except LedgerError:
        return False


def join_night(output: Output, asked: Plan, term_s: float, pause: Callable[[float], None]) -> Night:
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
        newest = find_night(output)
        if newest and newest.plan.asked == asked and (asked.execution or not newest.closed()):
            return newest
        if newest:
            _check_not_followed(newest, asked)
            _outwait(newest, asked, term_s, pause)
        if night := _open(output, asked, newest):
            return night


def find_night(output: Output, number: int | None = None) -> Night | None:
    """The newest night, or the one of that number; None where there is none.

    Raises:
        LedgerError: Its plan cannot be read.
    """
    if number is None:
        matches = filter(None, map(_PLAN.fullmatch, output.names(PLANS_FOLDER)))
        numbers = [int(match[1]) for match in matches if match[0] == _plan_file(int(match[1]))]
        number = max(numbers, default=0)
    data = output.read(_plan_file(number)) if number > 0 else None
    if data is None:
        return None
    what = f"The plan {_plan_file(number)} in {output.url}"
    return Night(output, number, decode_stored(data, Plan, what, "Remove it to open a new night."))


def find_given_up(night: Night) -> list[Night]:
    """The nights just before this one that were never closed: their rows need not be lost."""
    found: list[Night] = []
    for number in range(night.number - 1, max(night.number - 1 - LOOK_BACK, 0), -1):
        earlier = find_night(night.output, number)
        if earlier is None or earlier.closed():
            break
        found.append(earlier)
    return found


def _plan_file(number: int) -> str:
    return f"{PLANS_FOLDER}/{number:06d}.json"


def _open(output: Output, asked: Plan, newest: Night | None) -> Night | None:
    """Open the next night; None where another task just did."""
    number = newest.number + 1 if newest else 1
    published = latest.read_latest(output)
    after = max(newest.name if newest else "", published.run_date if published else "")
    name = name_night(datetime.now(UTC), after)
    plan = msgspec.structs.replace(asked, night=name, opened_by=secrets.token_hex(8))
    if not output.create(_plan_file(number), msgspec.json.encode(plan)):
        return None
    return Night(output, number, plan)


def name_night(now: datetime, after: str) -> str:
    """A name that is greater than ``after``, whatever the machines' clocks say."""
    name = now.strftime(RUN_DATE_FORMAT)
    if name > after:
        return name
    last = datetime.strptime(after, RUN_DATE_FORMAT).replace(tzinfo=UTC)
    return (last + timedelta(seconds=1)).strftime(RUN_DATE_FORMAT)


def _check_not_followed(newest: Night, asked: Plan) -> None:
    """A task that comes after its own night was followed by another has nothing to do any more."""
    if not asked.execution or newest.plan.execution == asked.execution:
        return
    for number in range(newest.number - 1, max(newest.number - 1 - LOOK_BACK, 0), -1):
        earlier = find_night(newest.output, number)
        if earlier and earlier.plan.execution == asked.execution:
            raise LedgerError(
                f"The night {earlier.name} of {asked.execution} was followed by {newest.name}.",
                "Nothing is left to do.",
            )


def _outwait(newest: Night, asked: Plan, term_s: float, pause: Callable[[float], None]) -> None:
    """Wait until it is sure that nobody works on an open night by another plan.

    Raises:
        Occupied: Somebody does.
    """
    if newest.closed():
        return
    differences = ", ".join(newest.plan.differences(asked))
    log.info(
        "the night %s is open by another plan (%s): given up if it gives no sign of life for %g s",
        *(newest.name, differences, term_s),
        extra={"event": "waiting", "fields": {"night": newest.name, "seconds": term_s}},
    )
    watches: dict[str, lease.Watch] = {}
    since = time.monotonic()
    while True:
        names = lease.names_of(newest.place)
        sights = [watches.setdefault(n, lease.Watch(newest.place, n)).look() for n in names]
        if lease.Sight.ALIVE in sights or newest.closed():
            raise Occupied(
                f"The night {newest.name} of {newest.output.url} is under way by another plan: "
                f"it differs in {differences}.",
                "Wait until it is done, then run the same command again.",
            )
        if time.monotonic() - since >= term_s and lease.Sight.SILENT not in sights:
            return
        pause(lease.pause_s(term_s))
