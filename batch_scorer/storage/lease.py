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

from batch_scorer.errors import CxrError, Interrupted, Occupied
from batch_scorer.storage.output import digest
from batch_scorer.system.process import has_ended, name_process
from batch_scorer.system.strict_json import LONGEST_TERM_S, UNREADABLE, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch_scorer.storage.output import Output

TERM_S = 60.0
FOLDER = "leases"
RENEWALS_A_TERM = 3
LONGEST_RENEWAL_S = 5.0
"""So soon another start learns that the holder is at work, however long the term is."""
LONGEST_PAUSE_S = 2.0
SLICE_S = 0.5
"""How long a wait may take before it is asked whether to stop."""
_RUN = "run"
_NUMBERED = re.compile(r"([0-9]{6}|[1-9][0-9]{6,17})\.json")
log = logging.getLogger("cxr.job")


class Claim(msgspec.Struct, frozen=True):
    """What a lease's file says: who holds it, and how often that was said again.

    ``process`` is what `name_process` said of the holder.
    """

    holder: str
    term_s: Annotated[float, Meta(gt=0, le=LONGEST_TERM_S)]
    renewals: Size = 0
    released: bool = False
    process: str = ""

    @property
    def free(self) -> bool:
        """Whether its holder gave it back, or is known to have ended."""
        return self.released or has_ended(self.process)


@dataclass(frozen=True)
class _Seen:
    """A lease as it was found: its newest file."""

    generation: int
    data: bytes

    @property
    def claim(self) -> Claim:
        return _read_claim(self.data) or Claim("somebody", TERM_S)


def _read_claim(data: bytes) -> Claim | None:
    """A claim; None for anything else: of a mounted bucket, half a file may be seen."""
    try:
        return msgspec.json.decode(data, type=Claim)
    except UNREADABLE:
        return None


class Sight(Enum):
    """What a look at a lease shows."""

    FREE = "nobody holds it, or nobody has renewed it for a whole term"
    SILENT = "somebody holds it, and has not renewed it since the last look"
    ALIVE = "somebody has taken or renewed it since the last look"


class Watch:
    """Looks at a lease from time to time, with a stopwatch."""

    def __init__(self, place: Output, name: str) -> None:
        self._place, self._name = place, f"{FOLDER}/{name}"
        self._seen: _Seen | None = None
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

    def look(self) -> Sight:
        """Look once.

        Raises:
            LedgerError, TransientError: The place cannot be read.
        """
        before, self._seen = self._seen, _newest(self._place, self._name)
        if self._seen is None or self._seen.claim.free:
            return Sight.FREE
        if self._seen != before:
            self._since = time.monotonic()
            return Sight.ALIVE if before else Sight.SILENT
        expired = time.monotonic() - self._since >= self._seen.claim.term_s
        return Sight.FREE if expired else Sight.SILENT


class Lease:
    """The right to do some work, while it is renewed. Leaving the block gives it back.

    ``inherited`` says that its last holder ended without giving it back.
    """

    def __init__(
        self, place: Output, name: str, generation: int, claim: Claim, *, inherited: bool = False
    ) -> None:
        self._place, self._name, self._generation = place, name, generation
        self._claim = claim
        self.inherited = inherited
        self._ended = threading.Event()
        self._lost: Occupied | None = None
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

    def tell_loss(self) -> None:
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
        generations = _generations(self._place, self._path)
        if not generations or max(generations) != self._generation:
            self._lost = Occupied(
                f"Another task took over {self._name}, since this one gave no sign of life for "
                f"{self._claim.term_s:g} s.",
                "Nothing of this task was put in place.",
            )
            raise self._lost

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self._name}"

    def _renew(self) -> None:
        while not self._ended.wait(min(self._claim.term_s / RENEWALS_A_TERM, LONGEST_RENEWAL_S)):
            try:
                self.check()
                self._write(msgspec.structs.replace(self._claim, renewals=self._claim.renewals + 1))
            except Occupied:
                return
            except CxrError as error:  # the next renewal may reach the place again
                log.debug("the lease %s was not renewed: %s", self._name, error)

    def _write(self, claim: Claim) -> None:
        """Rewrite the lease's file, while it is this holder's."""
        name = _file(self._path, self._generation)
        old = self._place.read(name)
        found = _read_claim(old) if old is not None else None
        if old is not None and found and found.holder == claim.holder:
            self._claim = claim
            self._place.replace(name, old, msgspec.json.encode(claim))


def acquire_lease(
    place: Output,
    name: str,
    term_s: float = TERM_S,
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
    watch = Watch(place, name)
    waited = not what
    what = what or f"{name} of {place.url}"
    while (sight := watch.look()) is Sight.SILENT:
        if not waited:
            log.info(
                "Waiting up to %g s to see whether another task is at work on %s", term_s, what
            )
        waited = True
        pause(pause_s(term_s))
    lease = take_lease(place, name, watch, term_s) if sight is Sight.FREE else None
    if lease is None:
        raise Occupied(
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
        pause = partial(pause_unless, self._stop)
        what = f"the results in {self._output.url}"
        self._lease = acquire_lease(self._output.own, _RUN, TERM_S, pause, what).__enter__()


def pause_unless(stop: Callable[[], bool] | None, seconds: float) -> None:
    """Wait, in slices.

    Raises:
        Interrupted: It was asked to stop.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop and stop():
            raise Interrupted("Interrupted while waiting.", "Run the same command again.")
        time.sleep(min(left, SLICE_S))


def take_lease(place: Output, name: str, watch: Watch, term_s: float) -> Lease | None:
    """Take a lease that a watch found free; None where another task was faster."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    claim = Claim(holder, term_s, process=name_process())
    generation = watch.next_generation
    path = f"{FOLDER}/{name}"
    if not place.create(_file(path, generation), msgspec.json.encode(claim)):
        return None
    generations = _generations(place, path)
    if max(generations) > generation:  # ours was a gap that others had left behind them
        place.discard({_file(path, generation): digest(msgspec.json.encode(claim))})
        return None
    _remove_claims(place, [_file(path, old) for old in generations if old < generation])
    return Lease(place, name, generation, claim, inherited=watch.abandoned)


def _remove_claims(place: Output, names: Iterable[str]) -> None:
    """Remove the files of former holders; what is no claim is somebody's, and stays."""
    for name in names:
        data = place.read(name)
        if data is not None and _read_claim(data):
            place.discard({name: digest(data)})


def pause_s(term_s: float) -> float:
    """How long to wait between two looks at a lease."""
    return min(term_s / RENEWALS_A_TERM, LONGEST_PAUSE_S)


def names_of(place: Output) -> list[str]:
    """Every lease that was ever taken in a place."""
    return sorted({name.split("/")[1] for name in place.names(FOLDER)})


def _file(path: str, generation: int) -> str:
    return f"{path}/{generation:06d}.json"


def _generations(place: Output, path: str) -> list[int]:
    matches = (_NUMBERED.fullmatch(name.rpartition("/")[2]) for name in place.names(path))
    return [int(match[1]) for match in matches if match]


def _newest(place: Output, path: str) -> _Seen | None:
    while generations := _generations(place, path):
        data = place.read(_file(path, max(generations)))
        if data is not None:  # else it went between the two questions: there is a newer one
            return _Seen(max(generations), data)
    return None
