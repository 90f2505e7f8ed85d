"""Bound the time of native code that a file from elsewhere decides."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock, Thread
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")
_STOP_GRACE_S = 3
"""For work that was asked to stop."""
_POLL_INTERVAL_S = 0.5
_ABANDONED_THREADS: list[Thread] = []
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)
]


def run_with_timeout(limit_s: float, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Do work in another thread, and wait for it no longer than a limit.

    Args:
        limit_s: Seconds.
        work: What it returns or raises is returned or raised here.
        stop: Asks the work to end early. Called once, after the limit or a signal.

    Raises:
        TimeoutError: The work took longer. Where it does not heed ``stop``, its thread goes on, and
            the process ends best by ``exit_process``.
    """
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - result() raises it again
            outcome.set_exception(exc)

    thread = Thread(target=run, name="cxr-deadline", daemon=True)
    try:
        thread.start()
        thread.join(limit_s)
    finally:  # a signal may end the waiting, too
        late = thread.is_alive()
        if late:
            _ABANDONED_THREADS.append(thread)
            stop()
            thread.join(_STOP_GRACE_S)
    if late:
        raise TimeoutError
    return outcome.result()


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code, as ``sys.exit`` does, whatever signals still come.

    Native code that comes back while Python clears up would abort the process, up to Python 3.13.
    So where work was left alone and still runs, nothing is cleared up.
    """
    lock_exit_code(code)
    if not any(thread.is_alive() for thread in _ABANDONED_THREADS):
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def lock_exit_code(code: int) -> None:
    """Let no later signal change the exit code: the next one ends the process with it, at once.

    It may be needed, where the end waits for a thread. Python's own last steps take no handler, and
    put back the system's, which ends a process with another code: they ignore signals.
    """
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Watchdog:
    """One thread that stops whatever takes too long; it lives while there is anything to watch.

    A timer of its own for each inference would cost 0.2 ms, which is 2 % of a batch of the MLP.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._watched: dict[object, tuple[float, Callable[[], None]]] = {}

    @contextmanager
    def timeout(self, limit_s: float, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop``, at least once, where the block takes longer than ``limit_s`` seconds."""
        key = object()
        with self._lock:
            self._watched[key] = (time.monotonic() + limit_s, stop)
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._watch, name="cxr-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._watched[key]

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_INTERVAL_S)
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
                late = [stop for end, stop in self._watched.values() if time.monotonic() > end]
                for stop in late:
                    stop()
