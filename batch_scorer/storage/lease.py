"""Leases in the output place: of all tasks that want the same work, one does it.

A lease is a folder with one file for each time that somebody took it, numbered upwards. Whoever
creates the next number, which only one can, holds it, and rewrites that file again and again.
Nobody compares clocks: who waits takes a lease over when its newest file has not changed for a
whole term by the waiter's own stopwatch. A holder that finds a higher number has lost it.

A lease keeps work from being done twice; it is no lock that a process stopped at the wrong moment
could not slip through. What is written must stand that: whole files, the same from whoever writes
them, and a mark at the end.

A holder of this machine whose process has ended is known to be gone at once.
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
from functools import partial
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
"""So soon another start learns that the holder is at work, however long the term is."""
MAX_POLL_INTERVAL_S = 2.0
SLEEP_SLICE_S = 0.5
"""How long a wait may take before it is asked whether to stop."""
_RUN_LEASE = "run"
_GENERATION_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,17})\.json")
log = logging.getLogger(__name__)


class LeaseRecord(msgspec.Struct, frozen=True):
    """What a lease's file says: who holds it, and how often that was said again.

    ``process`` is what `name_process` said of the holder.
    """

    holder: str
    term_s: Annotated[float, Meta(gt=0, le=MAX_LEASE_TERM_S)]
    renewals: LargeCount = 0
    released: bool = False
    process: str = ""

    @property
    def is_free(self) -> bool:
        """Whether its holder gave it back, or is known to have ended."""
        return self.released or has_ended(self.process)


@dataclass(frozen=True)
class _LeaseSnapshot:
    """A lease as it was found: its newest file."""

    generation: int
    data: bytes

    @property
    def claim(self) -> LeaseRecord:
        return _decode_record(self.data) or LeaseRecord("somebody", DEFAULT_TERM_S)


def _decode_record(data: bytes) -> LeaseRecord | None:
    """A claim; None for anything else: of a mounted bucket, half a file may be seen."""
    try:
        return msgspec.json.decode(data, type=LeaseRecord)
    except DECODE_ERRORS:
        return None


class LeaseState(Enum):
    """What a look at a lease shows."""

    FREE = "nobody holds it, or nobody has renewed it for a whole term"
    SILENT = "somebody holds it, and has not renewed it since the last look"
    ALIVE = "somebody has taken or renewed it since the last look"


class LeaseWatcher:
    """Looks at a lease from time to time, with a stopwatch."""

    def __init__(self, place: Output, name: str) -> None:
        self._place, self._name = place, f"{LEASES_FOLDER}/{name}"
        self._seen: _LeaseSnapshot | None = None
        self._since = time.monotonic()

    @property
    def next_generation(self) -> int:
        """The number that comes after what was seen last."""
        return self._seen.generation + 1 if self._seen else 1

    @property
    def holder(self) -> str:
        """Who held it when it was seen last."""
        return self._seen.claim.holder if self._seen else "nobody"

    @property
    def abandoned(self) -> bool:
        """Whether who held it when it was seen last did not give it back."""
        return self._seen is not None and not self._seen.claim.released

    def poll(self) -> LeaseState:
        """Look once.

        Raises:
            LedgerError, TransientError: The place cannot be read.
        """
        before, self._seen = self._seen, _read_newest(self._place, self._name)
        if self._seen is None or self._seen.claim.is_free:
            return LeaseState.FREE
        if self._seen != before:
            self._since = time.monotonic()
            return LeaseState.ALIVE if before else LeaseState.SILENT
        expired = time.monotonic() - self._since >= self._seen.claim.term_s
        return LeaseState.FREE if expired else LeaseState.SILENT


class Lease:
    """The right to do some work, while it is renewed. Leaving the block gives it back.

    ``inherited`` says that its last holder ended without giving it back.
    """

    def __init__(
        self,
        place: Output,
        name: str,
        generation: int,
        claim: LeaseRecord,
        *,
        inherited: bool = False,
    ) -> None:
        self._place, self._name, self._generation = place, name, generation
        self._claim = claim
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
            self._write(msgspec.structs.replace(self._claim, released=True))
        except CxrError as error:  # it ends by itself then, a term later
            log.debug("the lease %s was not given back: %s", self._name, error)

    def raise_if_lost(self) -> None:
        """Raise where the renewals have found out that the lease is lost; asks nobody.

        Raises:
            Occupied: Another task has it.
        """
        if self._lost:
            raise self._lost

    def check(self) -> None:
        """Make sure, right now, that nobody else has taken it.

        Raises:
            Occupied: Another task has it.
            LedgerError, TransientError: The place cannot be read.
        """
        generations = _list_generations(self._place, self._path)
        if not generations or max(generations) != self._generation:
            self._lost = AlreadyRunning(
                f"Another task took over {self._name}, since this one gave no sign of life for "
                f"{self._claim.term_s:g} s.",
                "Nothing of this task was put in place.",
            )
            raise self._lost

    @property
    def _path(self) -> str:
        return f"{LEASES_FOLDER}/{self._name}"

    def _renew(self) -> None:
        while not self._ended.wait(
            min(self._claim.term_s / RENEWALS_PER_TERM, MAX_RENEWAL_INTERVAL_S)
        ):
            try:
                self.check()
                self._write(msgspec.structs.replace(self._claim, renewals=self._claim.renewals + 1))
            except AlreadyRunning:
                return
            except CxrError as error:  # the next renewal may reach the place again
                log.debug("the lease %s was not renewed: %s", self._name, error)

    def _write(self, claim: LeaseRecord) -> None:
        """Rewrite the lease's file, while it is this holder's."""
        name = _generation_path(self._path, self._generation)
        old = self._place.read(name)
        found = _decode_record(old) if old is not None else None
        if old is not None and found and found.holder == claim.holder:
            self._claim = claim
            self._place.replace(name, old, msgspec.json.encode(claim))


def acquire_lease(
    place: Output,
    name: str,
    term_s: float = DEFAULT_TERM_S,
    pause: Callable[[float], None] = time.sleep,
    what: str = "",
) -> Lease:
    """Take a lease; where somebody holds it, wait until it is plain whether he is at work.

    Args:
        place: Where the leases lie.
        name: What is to be done by one task only.
        term_s: For how long the lease holds without being renewed.
        pause: Waits for so many seconds; may raise to end the waiting.
        what: What a line about waiting and an error call the work; by default no line says that
            this task waits, and an error gives the lease's name and place.

    Raises:
        Occupied: Its holder is at work, or another task was faster.
        LedgerError, TransientError: The place cannot be read or written.
    """
    watch = LeaseWatcher(place, name)
    waited = not what
    what = what or f"{name} of {place.url}"
    while (sight := watch.poll()) is LeaseState.SILENT:
        if not waited:
            log.info(
                "Waiting up to %g s to see whether another task is at work on %s", term_s, what
            )
        waited = True
        pause(poll_interval_s(term_s))
    lease = try_acquire_lease(place, name, watch, term_s) if sight is LeaseState.FREE else None
    if lease is None:
        raise AlreadyRunning(
            f"Another task ({watch.holder}) is working on {what}.",
            "Wait until it is done, then run the same command again.",
        )
    return lease


class OutputLock:
    """The right to write into an output: taken when it is first needed, given back by the block."""

    def __init__(self, output: Output, stop: Callable[[], bool] | None = None) -> None:
        self._output, self._stop = output, stop
        self._lease: Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lease:
            self._lease.__exit__(*exc)
            self._lease = None

    @property
    def inherited(self) -> bool:
        """Whether the run before this one ended without giving the lock back."""
        return self._lease is not None and self._lease.inherited

    def check(self) -> None:
        """Take it, or make sure that it is still held.

        Raises:
            Occupied: Another run is writing there.
            Interrupted: The run was asked to stop while it waited.
            LedgerError, TransientError: The output cannot be read or written.
        """
        if self._lease:
            self._lease.check()
            return
        pause = partial(sleep_interruptibly, self._stop)
        what = f"the results in {self._output.url}"
        self._lease = acquire_lease(
            self._output.own, _RUN_LEASE, DEFAULT_TERM_S, pause, what
        ).__enter__()


def sleep_interruptibly(stop: Callable[[], bool] | None, seconds: float) -> None:
    """Wait, in slices.

    Raises:
        Interrupted: It was asked to stop.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop and stop():
            raise Interrupted("Interrupted while waiting.", "Run the same command again.")
        time.sleep(min(left, SLEEP_SLICE_S))


def try_acquire_lease(place: Output, name: str, watch: LeaseWatcher, term_s: float) -> Lease | None:
    """Take a lease that a watch found free; None where another task was faster."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    claim = LeaseRecord(holder, term_s, process=get_process_identity())
    generation = watch.next_generation
    path = f"{LEASES_FOLDER}/{name}"
    if not place.create(_generation_path(path, generation), msgspec.json.encode(claim)):
        return None
    generations = _list_generations(place, path)
    if max(generations) > generation:  # ours was a gap that others had left behind them
        place.discard({_generation_path(path, generation): sha256_hex(msgspec.json.encode(claim))})
        return None
    _remove_old_records(
        place, [_generation_path(path, old) for old in generations if old < generation]
    )
    return Lease(place, name, generation, claim, inherited=watch.abandoned)


def _remove_old_records(place: Output, names: Iterable[str]) -> None:
    """Remove the files of former holders; what is no claim is somebody's, and stays."""
    for name in names:
        data = place.read(name)
        if data is not None and _decode_record(data):
            place.discard({name: sha256_hex(data)})


def poll_interval_s(term_s: float) -> float:
    """How long to wait between two looks at a lease."""
    return min(term_s / RENEWALS_PER_TERM, MAX_POLL_INTERVAL_S)


def list_leases(place: Output) -> list[str]:
    """Every lease that was ever taken in a place."""
    return sorted({name.split("/")[1] for name in place.names(LEASES_FOLDER)})


def _generation_path(path: str, generation: int) -> str:
    return f"{path}/{generation:06d}.json"


def _list_generations(place: Output, path: str) -> list[int]:
    matches = (_GENERATION_FILE.fullmatch(name.rpartition("/")[2]) for name in place.names(path))
    return [int(match[1]) for match in matches if match]


def _read_newest(place: Output, path: str) -> _LeaseSnapshot | None:
    while generations := _list_generations(place, path):
        data = place.read(_generation_path(path, max(generations)))
        if data is not None:  # else it went between the two questions: there is a newer one
            return _LeaseSnapshot(max(generations), data)
    return None
