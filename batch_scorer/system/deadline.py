"""Time limits for native code whose running time depends on an untrusted file."""

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
"""Time that work has to end after ``stop``."""
_POLL_INTERVAL_S = 0.5
_ABANDONED_THREADS: list[Thread] = []
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)
]


def run_with_timeout(timeout_s: float, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Run work in another thread and wait for it, up to a time limit.

    Args:
        timeout_s: Seconds to wait.
        work: The function to run.
        stop: Asks the work to end early. Called once, after the timeout or a signal.

    Returns:
        The return value of ``work``; its exceptions are raised here too.

    Raises:
        TimeoutError: The work took longer. If it ignores ``stop``, its thread keeps running: end
            the process with ``exit_process``.
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
        thread.join(timeout_s)
    finally:  # a signal also ends the wait
        late = thread.is_alive()
        if late:
            _ABANDONED_THREADS.append(thread)
            stop()
            thread.join(_STOP_GRACE_S)
    if late:
        raise TimeoutError
    return outcome.result()


def exit_process(exit_code: int) -> NoReturn:
    """End this process with an exit code, as ``sys.exit`` does, whatever signals arrive later.

    Up to Python 3.13, native code that returns during Python's shutdown aborts the process. While
    an abandoned thread still runs, this function therefore skips the shutdown.
    """
    lock_exit_code(exit_code)
    if not any(thread.is_alive() for thread in _ABANDONED_THREADS):
        sys.exit(exit_code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)


def lock_exit_code(exit_code: int) -> None:
    """Fix the exit code: the next signal ends the process with it immediately.

    The signal may be needed if the end waits for a thread. Python's last steps restore the system's
    handlers, which would end the process with another code, so signals are ignored from then on.
    """
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(exit_code))
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Watchdog:
    """One thread that stops overdue work; it runs while there is work to watch.

    A timer per inference would cost 0.2 ms, which is 2 % of a batch of the MLP.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._watched: dict[object, tuple[float, Callable[[], None]]] = {}

    @contextmanager
    def timeout(self, timeout_s: float, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` at least once if the block takes longer than ``timeout_s`` seconds."""
        key = object()
        with self._lock:
            self._watched[key] = (time.monotonic() + timeout_s, stop)
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
