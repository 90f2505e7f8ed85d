"""Reading ahead: many at once from elsewhere, in order, never too many."""

from __future__ import annotations

import threading
import time

import fsspec
import pytest

from batch_scorer.engine.prefetch import MAX_UNDECODED_PER_READER, read_ahead
from batch_scorer.errors import Unreadable
from batch_scorer.storage import source as source_module
from batch_scorer.storage.filesystem import MAX_REMOTE_READS
from batch_scorer.storage.source import open_source

FILMS = 3 * MAX_UNDECODED_PER_READER * MAX_REMOTE_READS


@pytest.fixture
def remote():
    bucket = fsspec.filesystem("memory")
    for index in range(FILMS):
        bucket.pipe_file(f"/ahead/{index:03d}.png", bytes([index]))
    yield open_source("memory://ahead")
    bucket.rm("/ahead", recursive=True)


def watch(monkeypatch, pause=lambda: None):
    """Let each read pause; return how many were in flight at once, and how many began."""
    told = {"now": 0, "most": 0, "begun": 0}
    lock, read = threading.Lock(), source_module.read_file

    def read_file(*arguments):
        with lock:
            told["begun"] += 1
            told["now"] += 1
            told["most"] = max(told["most"], told["now"])
        pause()
        with lock:
            told["now"] -= 1
        return read(*arguments)

    monkeypatch.setattr(source_module, "read_file", read_file)
    return told


def test_films_from_elsewhere_are_read_many_at_once_and_come_in_order(remote, monkeypatch):
    together = threading.Barrier(MAX_REMOTE_READS)  # breaks, and fails the read, where fewer come
    told = watch(monkeypatch, lambda: together.wait(60))
    waiting = []
    got = []
    for ref, read in read_ahead(remote, remote.refs):
        waiting.append((ref, read))
        if len(waiting) == MAX_REMOTE_READS:
            first, take = waiting.pop(0)
            got.append((first.key, take()))
    got += [(ref.key, read()) for ref, read in waiting]
    assert got == [(f"{index:03d}.png", bytes([index])) for index in range(FILMS)]
    assert told["most"] == MAX_REMOTE_READS


def test_the_last_films_come_although_no_further_one_is_asked_for(remote, monkeypatch):
    watch(monkeypatch, lambda: time.sleep(0.05))
    refs = remote.refs[: MAX_UNDECODED_PER_READER * MAX_REMOTE_READS]
    films = list(read_ahead(remote, refs))
    assert [read() for _, read in films] == [bytes([index]) for index in range(len(refs))]


def test_no_more_bytes_wait_than_there_is_room_for(remote, monkeypatch):
    reads = threading.Semaphore(0)
    watch(monkeypatch, reads.release)
    films = read_ahead(remote, remote.refs)
    room = MAX_UNDECODED_PER_READER * MAX_REMOTE_READS
    begun = [next(films) for _ in range(room)]
    held = threading.Thread(target=lambda: begun.append(next(films)))
    held.start()
    assert all(reads.acquire(timeout=60) for _ in range(room))
    held.join(0.3)
    assert held.is_alive()
    assert not reads.acquire(blocking=False)
    begun[0][1]()
    held.join(60)
    assert len(begun) == room + 1
    films.close()


def test_from_disk_the_one_who_asks_reads(folder, monkeypatch):
    source = open_source(str(folder))
    told = watch(monkeypatch)
    films = list(read_ahead(source, source.refs))
    assert told["begun"] == 0
    assert films[0][1]() == (folder / films[0][0].key).read_bytes()
    assert told["begun"] == 1


def test_what_went_wrong_comes_with_the_film_it_happened_to(remote):
    remote.filesystem.rm_file("/ahead/001.png")
    films = read_ahead(remote, remote.refs[:3])
    reads = [read for _, read in films]
    assert reads[0]() == b"\x00"
    with pytest.raises(Unreadable, match="it does not exist"):
        reads[1]()
    assert reads[2]() == b"\x02"
