"""Leases: one holder at a time, taken over from the dead, whatever the clocks say."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from batch_scorer.errors import AlreadyRunning
from batch_scorer.storage.lease import (
    LeaseRecord,
    LeaseState,
    LeaseWatcher,
    acquire_lease,
    list_leases,
    try_acquire_lease,
)
from batch_scorer.storage.output import open_output

TERM_S = 0.6
ALIVE_S = 6.0
"""Term of a lease that stays held: a busy machine may be late by four seconds to renew it."""


@pytest.fixture
def place(tmp_path):
    return open_output(tmp_path / "out")


def claim_of(place, name, generation):
    return msgspec.json.decode(place.read(f"leases/{name}/{generation:06d}.json"), type=LeaseRecord)


def abandon(place, name, term_s=TERM_S):
    """A lease whose holder died at once: it was taken, and nobody renews it."""
    return try_acquire_lease(place, name, LeaseWatcher(place, name), term_s)


def test_a_lease_is_taken_given_back_and_taken_again_at_once(place):
    with acquire_lease(place, "1-of-2", TERM_S) as lease:
        lease.check()
        assert not claim_of(place, "1-of-2", 1).released
    assert claim_of(place, "1-of-2", 1).released
    since = time.monotonic()
    with acquire_lease(place, "1-of-2", 60):
        assert time.monotonic() - since < 30
    assert place.list_files("leases/1-of-2") == ["leases/1-of-2/000002.json"]
    assert list_leases(place) == ["1-of-2"]


def test_who_waits_for_a_lease_that_is_renewed_is_told_who_is_at_work(place):
    with acquire_lease(place, "end", ALIVE_S) as lease:
        with pytest.raises(
            AlreadyRunning, match=r"Another task \(.+-\d+-.+\) is working on end of"
        ):
            acquire_lease(place, "end", TERM_S)
        lease.check()
    assert claim_of(place, "end", 1).renewals >= 1


def test_a_lease_of_the_dead_is_taken_over_after_a_whole_term(place):
    abandon(place, "end")
    since = time.monotonic()
    with acquire_lease(place, "end", 60) as lease:
        assert TERM_S <= time.monotonic() - since < 30
        lease.check()


def test_who_was_taken_over_is_told_and_gives_nothing_back(place):
    with acquire_lease(place, "end", 60) as late:  # renews so seldom that it seems dead
        watch = LeaseWatcher(place, "end")
        watch.poll()
        with try_acquire_lease(place, "end", watch, TERM_S) as lease:
            lease.check()
            late.raise_if_lost()
            with pytest.raises(AlreadyRunning, match="Another task took over end"):
                late.check()
            with pytest.raises(AlreadyRunning):
                late.raise_if_lost()
    assert claim_of(place, "end", 2).released
    assert place.list_files("leases/end") == ["leases/end/000002.json"]


def test_the_renewals_of_a_holder_find_out_that_it_was_taken_over(place):
    with acquire_lease(place, "end", TERM_S) as late:
        watch = LeaseWatcher(place, "end")
        watch.poll()
        with try_acquire_lease(place, "end", watch, TERM_S):
            for _ in range(200):
                time.sleep(0.02)
                if late._lost:
                    break
            with pytest.raises(AlreadyRunning):
                late.raise_if_lost()


def test_of_many_that_find_a_lease_free_one_gets_it(place):
    at_once = threading.Barrier(8)

    def race(_):
        watch = LeaseWatcher(place, "end")
        assert watch.poll() is LeaseState.FREE
        at_once.wait()
        return try_acquire_lease(place, "end", watch, TERM_S)

    with ThreadPoolExecutor(8) as pool:
        won = [lease for lease in pool.map(race, range(8)) if lease]
    assert len(won) == 1


def test_who_slept_through_two_other_holders_does_not_take_the_gap(place):
    watch = LeaseWatcher(place, "end")
    watch.poll()
    for _ in range(2):  # the second holder's start removed the first one's file
        with acquire_lease(place, "end", TERM_S):
            pass
    assert try_acquire_lease(place, "end", watch, TERM_S) is None
    assert place.list_files("leases/end") == ["leases/end/000002.json"]


def test_clocks_that_jump_by_days_change_nothing(place, monkeypatch):
    days = itertools.count()
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 86_400 * (-1) ** next(days) * next(days))
    abandon(place, "end")
    with acquire_lease(place, "end", ALIVE_S):
        with pytest.raises(AlreadyRunning):
            acquire_lease(place, "end", TERM_S)
        assert set(msgspec.json.decode(place.read("leases/end/000002.json"))) == {
            *("holder", "term_s", "renewals", "released", "process"),
        }


def test_half_a_file_of_a_mounted_bucket_is_somebody(place):
    place.write("leases/end/000003.json", b'{"holder": "a')
    watch = LeaseWatcher(place, "end")
    assert watch.poll() is LeaseState.SILENT
    assert (watch.holder, watch.next_generation) == ("somebody", 4)
