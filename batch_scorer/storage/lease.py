"""Leases in the output: of all tasks that want the same work, one does it.

A lease is a folder of numbered files, one for each time that a task took it. The holder is the task
that created the file with the highest number, which only one task can do. It renews the lease by
rewriting that file. Tasks never compare clocks: a waiting task takes a lease if its newest file has
not changed for a whole term by the task's own stopwatch. A holder that finds a higher number has
lost the lease.

A lease prevents duplicate work; it is not a strict lock, since a process may be suspended between a
check and a write. Writers must allow for that: they write whole files, the same from every task,
and a commit marker last.

If the process of a holder on this machine has ended, its lease is free at once.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Self

import msgspec
from msgspec import Meta

from batch_scorer.errors import AlreadyRunning, CxrError, Interrupted
from batch_scorer.storage.output import sha256_hex
from batch_scorer.system.process import get_process_identity, has_ended
from batch_scorer.system.strict_json import DECODE_ERRORS, MAX_LEASE_TERM_S, LargeCount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch_scorer.storage.output import Output

DEFAULT_TERM_S = 60.0
LEASES_FOLDER = "leases"
RENEWALS_PER_TERM = 3
MAX_RENEWAL_INTERVAL_S = 5.0
"""Bounds the time in which another task sees that the holder is alive, however long the term."""
MAX_POLL_INTERVAL_S = 2.0
SLEEP_SLICE_S = 0.5
"""Time between two checks of a waiting task for a request to stop."""
_GENERATION_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,17})\.json")
log = logging.getLogger(__name__)


class LeaseRecord(msgspec.Struct, frozen=True):
    """Content of a lease file: its holder and the number of its renewals.

    ``process`` is the holder's `get_process_identity`.
    """

    holder: str
    term_s: Annotated[float, Meta(gt=0, le=MAX_LEASE_TERM_S)]
    renewals: LargeCount = 0
    released: bool = False
    process: str = ""

    @property
    def is_free(self) -> bool:
        """True if its holder gave it back, or has ended as far as this machine knows."""
        return self.released or has_ended(self.process)


@dataclass(frozen=True)
class _LeaseSnapshot:
    """The newest file of a lease, as it was read."""

    generation: int
    data: bytes

    @property
    def record(self) -> LeaseRecord:
        return _decode_record(self.data) or LeaseRecord("somebody", DEFAULT_TERM_S)


def _decode_record(data: bytes) -> LeaseRecord | None:
    """Decode a lease file; None for anything else, such as half a file of a mounted bucket."""
    try:
        return msgspec.json.decode(data, type=LeaseRecord)
    except DECODE_ERRORS:
        return None


class LeaseState(Enum):
    """State of a lease when it was polled."""

    FREE = "nobody holds it, or nobody has renewed it for a whole term"
    SILENT = "a task holds it, and has not renewed it since the last poll"
    ALIVE = "a task has taken or renewed it since the last poll"


class LeaseWatcher:
    """Observer of one lease, with a stopwatch of its own."""

    def __init__(self, output: Output, name: str) -> None:
        self._output, self._name = output, f"{LEASES_FOLDER}/{name}"
        self._seen: _LeaseSnapshot | None = None
        self._since = time.monotonic()

    @property
    def next_generation(self) -> int:
        """The number after the one that the last poll found."""
        return self._seen.generation + 1 if self._seen else 1

    @property
    def holder(self) -> str:
        """The holder that the last poll found."""
        return self._seen.record.holder if self._seen else "nobody"

    @property
    def abandoned(self) -> bool:
        """True if the holder that the last poll found did not give it back."""
        return self._seen is not None and not self._seen.record.released

    def poll(self) -> LeaseState:
        """Read the lease once and compare it with the last poll.

        Raises:
            OutputError, TransientError: The output cannot be read.
        """
        before, self._seen = self._seen, _read_newest(self._output, self._name)
        if self._seen is None or self._seen.record.is_free:
            return LeaseState.FREE
        if self._seen != before:
            self._since = time.monotonic()
            return LeaseState.ALIVE if before else LeaseState.SILENT
        expired = time.monotonic() - self._since >= self._seen.record.term_s
        return LeaseState.FREE if expired else LeaseState.SILENT


class Lease:
    """The right to do some work, renewed in the background. Leaving the block gives it back.

    ``inherited`` says that the previous holder ended without giving it back.
    """

    def __init__(
        self,
        output: Output,
        name: str,
        generation: int,
        record: LeaseRecord,
        *,
        inherited: bool = False,
    ) -> None:
        self._output, self._name, self._generation = output, name, generation
        self._record = record
        self.inherited = inherited
        self._ended = threading.Event()
        self._lost: AlreadyRunning | None = None
        self._renewer = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._renewer.join()
        if self._lost:
            return
        try:
            self._write(msgspec.structs.replace(self._record, released=True))
        except CxrError as error:  # it then expires a term later
            log.debug("the lease %s was not given back: %s", self._name, error)

    def raise_if_lost(self) -> None:
        """Raise an error if a renewal has found the lease lost; read nothing.

        Raises:
            AlreadyRunning: Another task has it.
        """
        if self._lost:
            raise self._lost

    def check(self) -> None:
        """Read the lease, and make sure that no other task has taken it.

        Raises:
            AlreadyRunning: Another task has it.
            OutputError, TransientError: The output cannot be read.
        """
        generations = _list_generations(self._output, self._path)
        if not generations or max(generations) != self._generation:
            self._lost = AlreadyRunning(
                f"Another task took over {self._name}, since this one gave no sign of life for "
                f"{self._record.term_s:g} s.",
                "This task has written no results.",
            )
            raise self._lost

    @property
    def _path(self) -> str:
        return f"{LEASES_FOLDER}/{self._name}"

    def _renew(self) -> None:
        while not self._ended.wait(
            min(self._record.term_s / RENEWALS_PER_TERM, MAX_RENEWAL_INTERVAL_S)
        ):
            try:
                self.check()
                renewals = self._record.renewals + 1
                self._write(msgspec.structs.replace(self._record, renewals=renewals))
            except AlreadyRunning:
                return
            except CxrError as error:  # the next renewal may reach the output again
                log.debug("the lease %s was not renewed: %s", self._name, error)

    def _write(self, record: LeaseRecord) -> None:
        """Rewrite the lease file while it is this holder's."""
        name = _generation_path(self._path, self._generation)
        old = self._output.read(name)
        found = _decode_record(old) if old is not None else None
        if old is not None and found and found.holder == record.holder:
            self._record = record
            self._output.replace(name, old, msgspec.json.encode(record))


def acquire_lease(
    output: Output,
    name: str,
    term_s: float = DEFAULT_TERM_S,
    sleep: Callable[[float], None] = time.sleep,
    what: str = "",
) -> Lease:
    """Take a lease. If another task holds it, wait until its renewals show whether it is alive.

    Args:
        output: The output that holds the leases.
        name: The work that one task may do.
        term_s: Seconds after which a lease that is not renewed expires.
        sleep: Waits for a number of seconds; may raise an error to end the waiting.
        what: Name of the work in the error and in a log line about waiting. If empty, nothing is
            logged, and the error gives the lease's name and output.

    Raises:
        AlreadyRunning: Its holder is alive, or another task was faster.
        OutputError, TransientError: The output cannot be read or written.
    """
    watcher = LeaseWatcher(output, name)
    waited = not what
    what = what or f"{name} of {output.url}"
    while (state := watcher.poll()) is LeaseState.SILENT:
        if not waited:
            log.info(
                "Waiting up to %g s to see whether another task is working on %s", term_s, what
            )
        waited = True
        sleep(poll_interval_s(term_s))
    lease = try_acquire_lease(output, name, watcher, term_s) if state is LeaseState.FREE else None
    if lease is None:
        raise AlreadyRunning(
            f"Another task ({watcher.holder}) is working on {what}.",
            "Wait until it is done, then run the same command again.",
        )
    return lease


def sleep_interruptibly(stop: Callable[[], bool] | None, seconds: float) -> None:
    """Sleep in slices, and check between them for a request to stop.

    Raises:
        Interrupted: ``stop`` returned True.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop and stop():
            raise Interrupted("Interrupted while waiting.", "Run the same command again.")
        time.sleep(min(left, SLEEP_SLICE_S))


def try_acquire_lease(
    output: Output, name: str, watcher: LeaseWatcher, term_s: float
) -> Lease | None:
    """Take a lease that a watcher found free; None if another task was faster."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    record = LeaseRecord(holder, term_s, process=get_process_identity())
    data = msgspec.json.encode(record)
    generation = watcher.next_generation
    path = f"{LEASES_FOLDER}/{name}"
    if not output.create(_generation_path(path, generation), data):
        return None
    generations = _list_generations(output, path)
    if max(generations) > generation:  # it filled a gap below a newer holder's number
        output.remove_unchanged({_generation_path(path, generation): sha256_hex(data)})
        return None
    _remove_old_records(
        output, [_generation_path(path, old) for old in generations if old < generation]
    )
    return Lease(output, name, generation, record, inherited=watcher.abandoned)


def _remove_old_records(output: Output, names: Iterable[str]) -> None:
    """Remove the files of former holders; leave any that is not a lease record."""
    for name in names:
        data = output.read(name)
        if data is not None and _decode_record(data):
            output.remove_unchanged({name: sha256_hex(data)})


def poll_interval_s(term_s: float) -> float:
    """Return the seconds to wait between two polls of a lease."""
    return min(term_s / RENEWALS_PER_TERM, MAX_POLL_INTERVAL_S)


def list_leases(output: Output) -> list[str]:
    """List the names of all leases that were ever taken in an output, sorted."""
    return sorted({name.split("/")[1] for name in output.list_files(LEASES_FOLDER)})


def _generation_path(path: str, generation: int) -> str:
    return f"{path}/{generation:06d}.json"


def _list_generations(output: Output, path: str) -> list[int]:
    names = (name.rpartition("/")[2] for name in output.list_files(path))
    return [int(match[1]) for match in map(_GENERATION_FILE.fullmatch, names) if match]


def _read_newest(output: Output, path: str) -> _LeaseSnapshot | None:
    while generations := _list_generations(output, path):
        data = output.read(_generation_path(path, max(generations)))
        if data is not None:  # else it was removed after the listing, so there is a newer one
            return _LeaseSnapshot(max(generations), data)
    return None
