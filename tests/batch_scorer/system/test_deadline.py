"""Work is waited for no longer than its limit, and what it returns or raises comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from threading import Event

import pytest

from batch_scorer.system import deadline
from batch_scorer.system.deadline import Watchdog, run_with_timeout


def never():
    pytest.fail("stopped within its limit")


def test_work_that_is_done_in_time_comes_back():
    assert run_with_timeout(60, lambda: 7, never) == 7
    with pytest.raises(ZeroDivisionError):
        run_with_timeout(60, lambda: 1 / 0, never)


def test_work_that_takes_too_long_is_asked_to_stop_and_left_alone(monkeypatch):
    monkeypatch.setattr(deadline, "_STOP_GRACE_S", 0.0)
    asked, let_go = Event(), Event()
    with pytest.raises(TimeoutError):
        run_with_timeout(0.01, let_go.wait, asked.set)
    assert asked.is_set()
    let_go.set()


@pytest.mark.parametrize(("left", "cleared"), [(True, ""), (False, "cleared up")])
def test_a_process_ends_with_its_code_whether_or_not_work_still_runs(left, cleared):
    program = f"""
import atexit, threading
from batch_scorer.system import deadline
deadline._STOP_GRACE_S = 0
atexit.register(print, "cleared up")
let_go = threading.Event()
try:
    deadline.run_with_timeout(0.01, let_go.wait, lambda: None)
except TimeoutError:
    print("late")
if not {left}:
    let_go.set()
    deadline._ABANDONED_THREADS[0].join()
deadline.exit_process(75)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (75, "")
    assert done.stdout.split("\n", 1) == ["late", f"{cleared}\n" if cleared else ""]


def test_a_watchdog_stops_what_is_late_and_nothing_else(monkeypatch):
    monkeypatch.setattr(deadline, "_POLL_INTERVAL_S", 0.01)
    watchdog, late = Watchdog(), Event()
    with watchdog.timeout(3600, never), watchdog.timeout(0.0, late.set):
        thread = watchdog._thread
        assert late.wait(60)
    thread.join(60)
    assert not thread.is_alive(), "it ends when there is nothing to watch"
    again = Event()
    with watchdog.timeout(0.0, again.set):
        assert again.wait(60)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "when",
    [
        "threading.Thread(target=lambda: (threading.main_thread().join(), tell())).start()",
        "atexit.register(tell)",
        "last = type('Last', (), {'__del__': lambda self: tell()})()",
    ],
    ids=["a thread is waited for", "the work is cleared up", "Python itself ends"],
)
def test_a_signal_while_the_process_ends_changes_no_exit_code(name, when):
    program = f"""
import atexit, os, signal, threading
from batch_scorer.system.deadline import exit_process
def tell(kill=os.kill, me=os.getpid(), number=signal.{name}): kill(me, number)
{when}
exit_process(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_work_that_a_signal_leaves_alone_is_asked_to_stop(monkeypatch):
    monkeypatch.setattr(deadline, "_STOP_GRACE_S", 0.0)
    monkeypatch.setattr(deadline, "_ABANDONED_THREADS", left := [])
    asked, let_go = Event(), Event()

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return let_go.wait()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_with_timeout(60, interrupt, asked.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked.is_set()
    assert len(left) == 1
    let_go.set()
