"""Reading ahead: remote images concurrently, in order, within a bound."""

from __future__ import annotations

import threading

import fsspec
import pytest

from batch_scorer.engine.prefetch import MAX_UNDECODED_PER_READER, read_ahead
from batch_scorer.errors import Unreadable
from batch_scorer.storage import source as source_module
from batch_scorer.storage.filesystem import MAX_REMOTE_READS
from batch_scorer.storage.source import open_source

N_IMAGES = 3 * MAX_UNDECODED_PER_READER * MAX_REMOTE_READS


@pytest.fixture
def remote():
    bucket = fsspec.filesystem("memory")
    for index in range(N_IMAGES):
        bucket.pipe_file(f"/ahead/{index:03d}.png", bytes([index]))
    yield open_source("memory://ahead")
    bucket.rm("/ahead", recursive=True)


def watch(monkeypatch, pause=lambda: None):
    """Let each read pause; count the reads in progress, their maximum, and all that started."""
    counts = {"now": 0, "most": 0, "begun": 0}
    lock, read = threading.Lock(), source_module.read_file

    def read_file(*arguments):
        with lock:
            counts["begun"] += 1
            counts["now"] += 1
            counts["most"] = max(counts["most"], counts["now"])
        pause()
        with lock:
            counts["now"] -= 1
        return read(*arguments)

    monkeypatch.setattr(source_module, "read_file", read_file)
    return counts


def test_remote_images_are_read_concurrently_and_come_in_order(remote, monkeypatch):
    together = threading.Barrier(MAX_REMOTE_READS)  # breaks, and fails the read, if fewer come
    counts = watch(monkeypatch, lambda: together.wait(60))
    waiting = []
    got = []
    for ref, read in read_ahead(remote, remote.refs):
        waiting.append((ref, read))
        if len(waiting) == MAX_REMOTE_READS:
            first, take = waiting.pop(0)
            got.append((first.key, take()))
    got += [(ref.key, read()) for ref, read in waiting]
    assert got == [(f"{index:03d}.png", bytes([index])) for index in range(N_IMAGES)]
    assert counts["most"] == MAX_REMOTE_READS


def test_the_last_images_come_without_a_further_request(remote, monkeypatch):
    listed = threading.Event()

    def wait():
        assert listed.wait(60), "the list waited for a read"

    watch(monkeypatch, wait)
    refs = remote.refs[: MAX_UNDECODED_PER_READER * MAX_REMOTE_READS]
    reads_ahead = list(read_ahead(remote, refs))
    listed.set()
    assert [read() for _, read in reads_ahead] == [bytes([index]) for index in range(len(refs))]


def test_the_number_of_undecoded_images_is_bounded(remote, monkeypatch):
    reads = threading.Semaphore(0)
    watch(monkeypatch, reads.release)
    reads_ahead = read_ahead(remote, remote.refs)
    room = MAX_UNDECODED_PER_READER * MAX_REMOTE_READS
    started = [next(reads_ahead) for _ in range(room)]
    waiting_thread = threading.Thread(target=lambda: started.append(next(reads_ahead)))
    waiting_thread.start()
    assert all(reads.acquire(timeout=60) for _ in range(room))
    waiting_thread.join(0.3)
    assert waiting_thread.is_alive()
    assert not reads.acquire(blocking=False)
    started[0][1]()
    waiting_thread.join(60)
    assert len(started) == room + 1
    reads_ahead.close()


def test_local_images_are_read_on_request(folder, monkeypatch):
    source = open_source(str(folder))
    counts = watch(monkeypatch)
    reads_ahead = list(read_ahead(source, source.refs))
    assert counts["begun"] == 0
    assert reads_ahead[0][1]() == (folder / reads_ahead[0][0].key).read_bytes()
    assert counts["begun"] == 1


def test_a_read_error_is_raised_for_its_own_image(remote):
    remote.filesystem.rm_file("/ahead/001.png")
    reads_ahead = read_ahead(remote, remote.refs[:3])
    reads = [read for _, read in reads_ahead]
    assert reads[0]() == b"\x00"
    with pytest.raises(Unreadable, match="it does not exist"):
        reads[1]()
    assert reads[2]() == b"\x02"
