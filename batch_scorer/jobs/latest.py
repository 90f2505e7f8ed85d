"""``latest/``: the newest finished run, at a path that never changes.

``published/`` says which run that is. It holds one file per published run, numbered like the runs,
created once and never changed. The highest number counts, so a publisher that was paused can never
bring back an older run.

``latest/`` holds copies of that run's files. Every run synchronizes them, even one that finds
nothing new. Each file is replaced atomically, run.json last, and files of the older run are removed
only after the newer run is complete. In between, ``latest/`` mixes files of two runs. The report is
consistent at every moment, because it carries its own rows and run. Readers that need rows and
run.json together compare the hash, as `store.read_run` does, or read the run's own folder.
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
    """The date of the run that was published under a number."""

    run_date: RunDate

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_run_date(self.run_date)


def read_published_date(output: Output) -> str:
    """Return the date of the newest published run; empty if there is none.

    Raises:
        OutputError: The file cannot be read.
    """
    matches = filter(None, map(_PUBLISHED_FILE.fullmatch, output.list_files(PUBLISHED_FOLDER)))
    newest = max(matches, key=lambda match: int(match[1]), default=None)
    data = output.read(newest[0]) if newest else None
    if newest is None or data is None:
        shown = read_latest_manifest(output)  # written by a version without published/
        return shown.run_date if shown else ""
    what = f"{newest[0]} in {output.url}"
    hint = "Remove it: the next run publishes again."
    return decode_json(data, PublishedRun, what, hint).run_date


def find_newest_output(output: Output) -> Output:
    """Return the newest published run's own output, or ``latest/`` if that was removed.

    Raises:
        OutputError: A file cannot be read.
    """
    run_date = read_published_date(output)
    run_output = output.subfolder(f"{RUNS_FOLDER}/{run_date}") if run_date else None
    if run_output and store.read_manifest(run_output):
        return run_output
    return output.subfolder(LATEST_FOLDER)


def read_newest_manifest(output: Output) -> RunManifest | None:
    """Read the manifest of the newest published run; None if there is none.

    Raises:
        OutputError: A file cannot be read.
    """
    return store.read_manifest(find_newest_output(output))


def read_latest_manifest(output: Output) -> RunManifest | None:
    """Read the manifest in ``latest/``, which may lag behind the newest published run.

    Raises:
        OutputError: The file cannot be read.
    """
    return store.read_manifest(output.subfolder(LATEST_FOLDER))


def read_newest_run(output: Output) -> store.FinishedRun | None:
    """Read the newest published run with its rows; None if there is none.

    Raises:
        OutputError: A file cannot be read.
    """
    run_output = find_newest_output(output)
    return store.read_run(run_output) if store.read_manifest(run_output) else None


def publish(output: Output, number: int, run_date: str, guard: Callable[[], None]) -> str:
    """Publish a finished run as the newest one, and copy it to ``latest/``.

    Args:
        output: The job's output.
        number: Number of the run.
        run_date: Date of the run.
        guard: Called before publishing and after the update of ``latest/``; raises if this process
            may no longer publish.

    Returns:
        URL of ``latest/``.

    Raises:
        OutputError: A file cannot be read or written.
    """
    guard()
    data = msgspec.json.encode(PublishedRun(run_date))
    output.create(f"{PUBLISHED_FOLDER}/{number:06d}.json", data)
    latest_url = update_latest(output)
    guard()
    return latest_url


def update_latest(output: Output) -> str:
    """Synchronize ``latest/`` with the newest published run, even if another task published it.

    Returns:
        URL of ``latest/``.

    Raises:
        OutputError: A file cannot be read or written.
        TransientError: Other tasks kept publishing.
    """
    target = output.subfolder(LATEST_FOLDER)
    for _ in range(_MAX_ATTEMPTS):
        run_date = read_published_date(output)
        run_output = output.subfolder(f"{RUNS_FOLDER}/{run_date}") if run_date else None
        if run_output is None or store.read_manifest(run_output) is None:
            return target.url
        if _copy_changed_files(run_output, target, partial(_is_newest, output, run_date)):
            return target.url
    raise TransientError(
        f"Cannot update {target.url}: other tasks published {_MAX_ATTEMPTS} runs in the meantime.",
        "Run the same command again.",
    )


def _is_newest(output: Output, run_date: str) -> bool:
    return read_published_date(output) == run_date


def _copy_changed_files(source: Output, target: Output, is_newest: Callable[[], bool]) -> bool:
    """Copy the files that differ, run.json last; then remove files that the run does not have.

    Args:
        source: The run's own output.
        target: The output for the copies.
        is_newest: Called before each write. If a newer run was published, its copies must stay.

    Returns:
        True if the run was still the newest at the end.
    """
    report_images = store.find_report_images(source)
    groups = [report_images, store.RUN_FILES[:-1], store.RUN_FILES[-1:]]
    absent: set[str] = set()
    claimed = False
    for group in groups:
        contents = {name: source.read(name, MAX_TABLE_READ_BYTES) for name in group}
        absent |= {name for name, data in contents.items() if data is None}
        changed = {
            name: data
            for name, data in contents.items()
            if data is not None and target.read(name, MAX_TABLE_READ_BYTES) != data
        }
        if changed and not is_newest():
            return False
        if changed:
            if not claimed:
                claim_run(target)
                claimed = True
            target.write_all(changed)
    gone = absent | (set(store.find_report_images(target)) - set(report_images))
    if gone and is_newest():
        target.remove(*sorted(gone))
    return is_newest()
