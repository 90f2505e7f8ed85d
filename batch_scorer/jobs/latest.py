"""``latest/``: the newest finished night, under a name that does not change.

Which night that is, ``published/`` says: one file for each night that was published, numbered like
the nights, created once and never changed. The highest number counts, so a publisher that was
paused cannot bring an older night back, whenever it goes on.

``latest/`` holds copies of that night's files. Every night makes them agree with it, also one that
finds nothing new. Every file is replaced whole, and run.json last; nothing of the older night is
removed before the newer one stands. Between the first file and the last, files of two nights lie
side by side: the report is consistent at every moment, since it carries its rows and its run; who
reads the rows and run.json together compares the hash, as `ledger.read_run` does, or reads the
night's own folder.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.errors import TransientError
from batch_scorer.results import store
from batch_scorer.results.claim import claim_run
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES
from batch_scorer.system.strict_json import RunDate, check_run_date, decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.results.schema import RunManifest
    from batch_scorer.storage.output import Output

LATEST_FOLDER = "latest"
RUNS_FOLDER = "nights"
PUBLISHED_FOLDER = "published"
_PUBLISHED_FILE = re.compile(rf"{PUBLISHED_FOLDER}/([0-9]{{6,}})\.json")
_MAX_ATTEMPTS = 10


class PublishedRun(msgspec.Struct, frozen=True, rename={"run_date": "night"}):
    """The night that was published under a number."""

    run_date: RunDate

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_run_date(self.run_date)


def read_published_date(output: Output) -> str:
    """The name of the newest published night; empty where none was.

    Raises:
        LedgerError: It cannot be read.
    """
    matches = filter(None, map(_PUBLISHED_FILE.fullmatch, output.list_files(PUBLISHED_FOLDER)))
    newest = max(matches, key=lambda match: int(match[1]), default=None)
    data = output.read(newest[0]) if newest else None
    if newest is None or data is None:
        shown = read_latest_manifest(output)  # of a version without published/
        return shown.run_date if shown else ""
    what = f"{newest[0]} in {output.url}"
    hint = "Remove it: the next night publishes again."
    return decode_json(data, PublishedRun, what, hint).run_date


def find_newest_output(output: Output) -> Output:
    """Where the newest published night lies: its own folder, or ``latest/`` once that is gone.

    Raises:
        LedgerError: It cannot be read.
    """
    night = read_published_date(output)
    own = output.subfolder(f"{RUNS_FOLDER}/{night}") if night else None
    return own if own and store.read_manifest(own) else output.subfolder(LATEST_FOLDER)


def read_newest_manifest(output: Output) -> RunManifest | None:
    """What run.json of the newest published night says; None where none was.

    Raises:
        LedgerError: It cannot be read.
    """
    return store.read_manifest(find_newest_output(output))


def read_latest_manifest(output: Output) -> RunManifest | None:
    """What run.json in ``latest/`` says, whether or not that is the newest published night.

    Raises:
        LedgerError: It cannot be read.
    """
    return store.read_manifest(output.subfolder(LATEST_FOLDER))


def read_newest_run(output: Output) -> store.FinishedRun | None:
    """The newest published night with its rows.

    Raises:
        LedgerError: It cannot be read.
    """
    place = find_newest_output(output)
    return store.read_run(place) if store.read_manifest(place) else None


def publish(output: Output, number: int, night: str, guard: Callable[[], None]) -> str:
    """Make a finished night the newest one, and put it into ``latest/``.

    Args:
        output: The place of all nights.
        number: The night's number.
        night: Its name.
        guard: Called before the night is published and when ``latest/`` has been renewed; raises
            where this process may not publish it, or another one took its work over.

    Returns:
        Where ``latest/`` is.

    Raises:
        LedgerError: A file cannot be read or written.
    """
    guard()
    data = msgspec.json.encode(PublishedRun(night))
    output.create(f"{PUBLISHED_FOLDER}/{number:06d}.json", data)
    place = update_latest(output)
    guard()
    return place


def update_latest(output: Output) -> str:
    """Make ``latest/`` agree with the newest published night, whoever published that meanwhile.

    Returns:
        Where ``latest/`` is.

    Raises:
        LedgerError: A file cannot be read or written.
        TransientError: Others published again and again.
    """
    place = output.subfolder(LATEST_FOLDER)
    for _ in range(_MAX_ATTEMPTS):
        newest = read_published_date(output)
        night = output.subfolder(f"{RUNS_FOLDER}/{newest}") if newest else None
        if night is None or store.read_manifest(night) is None:
            return place.url
        if _copy_changed_files(night, place, partial(_is_newest, output, newest)):
            return place.url
    raise TransientError(
        f"{place.url} could not be renewed: other tasks published {_MAX_ATTEMPTS} times meanwhile.",
        "Run the same command again.",
    )


def _is_newest(output: Output, night: str) -> bool:
    return read_published_date(output) == night


def _copy_changed_files(night: Output, place: Output, is_newest: Callable[[], bool]) -> bool:
    """Copy what differs, run.json last, and then remove what the night does not have.

    Args:
        night: The night's own folder.
        place: Where the copies lie.
        is_newest: Asked before each writing: where another night has come, its copies must stay.

    Returns:
        Whether it still was the newest one when all was done.
    """
    pictures = store.find_report_images(night)
    groups = [pictures, store.RUN_FILES[:-1], store.RUN_FILES[-1:]]
    absent: set[str] = set()
    claimed = False
    for group in groups:
        contents = {name: night.read(name, MAX_TABLE_READ_BYTES) for name in group}
        absent |= {name for name, data in contents.items() if data is None}
        changed = {
            name: data
            for name, data in contents.items()
            if data is not None and place.read(name, MAX_TABLE_READ_BYTES) != data
        }
        if changed and not is_newest():
            return False
        if changed:
            if not claimed:
                claim_run(place)
                claimed = True
            place.write_all(changed)
    gone = absent | (set(store.find_report_images(place)) - set(pictures))
    if gone and is_newest():
        place.remove(*sorted(gone))
    return is_newest()
