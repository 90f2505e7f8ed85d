"""Leases in the output place: of all tasks that want the same work, one does it.

A lease is a folder with one file for each time that somebody took it, numbered upwards. Whoever
creates the next number, which only one can, holds it, and rewrites that file again and again.
Nobody compares clocks: who waits takes a lease over when its newest file has not changed for a
whole term by the waiter's own stopwatch. A holder that finds a higher number has lost it.

A lease keeps work from being done twice; it is no lock that a process stopped at the wrong moment
could not slip through. What is written must stand that: whole files, the same from whoever writes
them, and a mark at the end.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

import msgspec

from batch_scorer.errors import CxrError, Occupied

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.output import Output

TERM_S = 60.0
FOLDER = "leases"
RENEWALS_A_TERM = 3
LONGEST_PAUSE_S = 2.0
log = logging.getLogger("cxr.job")


class Claim(msgspec.Struct, frozen=True):
    """What a lease's file says: who holds it, and how often that was said again."""

    holder: str
    term_s: float
    renewals: int = 0
    released: bool = False


@dataclass(frozen=True)
class _Seen:
    """A lease as it was found: its newest file."""

    generation: int
    data: bytes

    @property
    def claim(self) -> Claim:
        try:
            return msgspec.json.decode(self.data, type=Claim)
        except msgspec.DecodeError:  # of a mounted bucket, half a file may be seen
            return Claim("somebody", TERM_S)


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

    def look(self) -> Sight:
        """Look once.

        Raises:
            LedgerError, TransientError: The place cannot be read.
        """
        before, self._seen = self._seen, _newest(self._place, self._name)
        if self._seen is None or self._seen.claim.released:
            return Sight.FREE
        if self._seen != before:
            self._since = time.monotonic()
            return Sight.ALIVE if before else Sight.SILENT
        expired = time.monotonic() - self._since >= self._seen.claim.term_s
        return Sight.FREE if expired else Sight.SILENT


class Lease:
    """The right to do some work, while it is renewed. Leaving the block gives it back."""

    def __init__(self, place: Output, name: str, generation: int, claim: Claim) -> None:
        self._place, self._name, self._generation = place, name, generation
        self._claim = claim
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
        while not self._ended.wait(self._claim.term_s / RENEWALS_A_TERM):
            try:
                self.check()
                self._claim = msgspec.structs.replace(
                    self._claim, renewals=self._claim.renewals + 1
                )
                self._write(self._claim)
            except Occupied:
                return
            except CxrError as error:  # the next renewal may reach the place again
                log.debug("the lease %s was not renewed: %s", self._name, error)

    def _write(self, claim: Claim) -> None:
        self._place.write(_file(self._path, self._generation), msgspec.json.encode(claim))


def acquire_lease(
    place: Output, name: str, term_s: float = TERM_S, pause: Callable[[float], None] = time.sleep
) -> Lease:
    """Take a lease; where somebody holds it, wait until it is plain whether he is at work.

    Args:
        place: Where the leases lie.
        name: What is to be done by one task only.
        term_s: For how long the lease holds without being renewed.
        pause: Waits for so many seconds; may raise to end the waiting.

    Raises:
        Occupied: Its holder is at work, or another task was faster.
        LedgerError, TransientError: The place cannot be read or written.
    """
    watch = Watch(place, name)
    while (sight := watch.look()) is Sight.SILENT:
        pause(pause_s(term_s))
    lease = take_lease(place, name, watch, term_s) if sight is Sight.FREE else None
    if lease is None:
        raise Occupied(
            f"Another task ({watch.holder}) is working on {name} of {place.url}.",
            "Wait until it is done, then run the same command again.",
        )
    return lease


def take_lease(place: Output, name: str, watch: Watch, term_s: float) -> Lease | None:
    """Take a lease that a watch found free; None where another task was faster."""
    claim = Claim(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", term_s)
    generation = watch.next_generation
    path = f"{FOLDER}/{name}"
    if not place.create(_file(path, generation), msgspec.json.encode(claim)):
        return None
    generations = _generations(place, path)
    if max(generations) > generation:  # ours was a gap that others had left behind them
        place.remove(_file(path, generation))
        return None
    place.remove(*(_file(path, old) for old in generations if old < generation))
    return Lease(place, name, generation, claim)


def pause_s(term_s: float) -> float:
    """How long to wait between two looks at a lease."""
    return min(term_s / RENEWALS_A_TERM, LONGEST_PAUSE_S)


def names_of(place: Output) -> list[str]:
    """Every lease that was ever taken in a place."""
    return sorted({name.split("/")[1] for name in place.names(FOLDER)})


def _file(path: str, generation: int) -> str:
    return f"{path}/{generation:06d}.json"


def _generations(place: Output, path: str) -> list[int]:
    stems = (name.rpartition("/")[2].removesuffix(".json") for name in place.names(path))
    return [int(stem) for stem in stems if stem.isdecimal()]


def _newest(place: Output, path: str) -> _Seen | None:
    while generations := _generations(place, path):
        data = place.read(_file(path, max(generations)))
        if data is not None:  # else it went between the two questions: there is a newer one
            return _Seen(max(generations), data)
    return None
