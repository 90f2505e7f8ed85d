"""Files that are none, and files that have no end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from batch_scorer.errors import ReportError, SourceError, TooLarge, Unreadable, UsageError
from batch_scorer.imaging.deidentify import Deidentifier
from batch_scorer.report.content.branding import read_branding
from batch_scorer.report.formats.verify import verify_report
from batch_scorer.storage.labels import MAX_TABLE_BYTES
from batch_scorer.storage.source import open_source, read_labels
from batch_scorer.system.regular_file import FileTooLarge, read_regular_file
from tests.images import make_film


@pytest.fixture(autouse=True)
def _no_hanging():
    """A read that waits for ever fails, instead of stopping all tests."""

    def stop(_number, _frame):
        pytest.fail("the read hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_file_is_read_whole(tmp_path):
    path = tmp_path / "file"
    for data in (b"", b"x", os.urandom(3_000_000)):
        path.write_bytes(data)
        assert read_regular_file(path, 3_000_000) == data


def test_a_pipe_a_device_a_socket_and_a_folder_are_no_files(fifo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    (tmp_path / "link").symlink_to(fifo)
    for path in (fifo, "/dev/zero", "/dev/null", "socket", tmp_path, "link"):
        with pytest.raises(OSError, match=r"expected a file|No such device"):
            read_regular_file(path, 100)
    listening.close()


def test_a_pipe_with_a_writer_is_no_file_either(fifo):
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    os.write(writer, b"film")
    with pytest.raises(OSError, match="expected a file"):
        read_regular_file(fifo, 100)
    os.close(writer)
    os.close(reader)


def test_a_file_of_the_system_that_waits_for_content_is_none(tmp_path, monkeypatch):
    path = tmp_path / "kmsg"
    path.write_bytes(b"x")

    def wait(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "read", wait)
    with pytest.raises(OSError, match="found one that waits for content") as error:
        read_regular_file(path, 100)
    assert not isinstance(error.value, BlockingIOError)


def test_what_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 6_000_000_000)
    with pytest.raises(FileTooLarge, match="more than 5 MB"):
        read_regular_file(path, 5_000_000)


def test_a_file_that_grows_for_ever_ends_at_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "growing"
    path.write_bytes(b"x")
    read = os.read

    def grow(opened, size):
        with path.open("ab") as file:
            file.write(bytes(100_000))
        return read(opened, size)

    monkeypatch.setattr(os, "read", grow)
    with pytest.raises(FileTooLarge, match="more than 1 MB"):
        read_regular_file(path, 1_000_000)


def test_a_limit_is_not_a_byte_less(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular_file(path, 5) == b"12345"
    with pytest.raises(FileTooLarge, match="more than 4 bytes"):
        read_regular_file(path, 4)


def test_no_descriptor_is_left_open(fifo, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (fifo, tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match="expected a file"):
            read_regular_file(path, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_pipe_called_synthetic_txt_hangs_nothing(folder):
    os.mkfifo(folder / "SYNTHETIC.txt")
    source = open_source(str(folder))
    assert not source.synthetic
    assert "SYNTHETIC.txt" in {ref.key for ref in source.refs}
    assert not open_source(str(folder / "NORMAL")).synthetic


def test_a_pipe_in_the_place_of_any_file_that_is_read_is_one_sentence(folder, tmp_path):
    for name in ("list.txt", "list.csv", "film.png"):
        os.mkfifo(tmp_path / name)
    for name in ("list.txt", "list.csv"):
        source = open_source(str(tmp_path / name))  # a film like any other, for it is no file
        with pytest.raises(Unreadable, match="found a folder, a pipe or a device"):
            source.read(source.refs[0])
    source = open_source(str(folder))
    with pytest.raises(SourceError, match=r"film.png cannot be read: expected a file, found"):
        read_labels(str(tmp_path / "film.png"), source)
    with pytest.raises(UsageError, match=r"key file .* cannot be read: expected a file, found"):
        Deidentifier.from_options("hash", tmp_path / "film.png")
    with pytest.raises(UsageError, match=r"logo .* cannot be read: expected a file, found"):
        read_branding("", "", str(tmp_path / "film.png"))
    with pytest.raises(ReportError, match="cannot be read: expected a file, found"):
        verify_report(str(tmp_path / "film.png"))


def test_a_listed_pipe_that_was_a_file_when_it_was_listed_is_a_row(folder):
    source = open_source(str(folder))
    path = folder / source.refs[0].key
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreadable, match="expected a file, found a folder, a pipe or a device"):
        source.read(source.refs[0])


def test_a_film_that_grew_beyond_the_limit_is_too_large(folder):
    source = open_source(str(folder))
    os.truncate(folder / source.refs[0].key, 500_000_001)
    with pytest.raises(TooLarge, match="at most 500 MB, found more"):
        source.read(source.refs[0])


def test_a_list_and_a_file_of_labels_have_a_limit_of_their_own(folder):
    for name in ("list.txt", "labels.csv"):
        (folder / name).touch()
        os.truncate(folder / name, MAX_TABLE_BYTES + 1)
    with pytest.raises(SourceError, match=r"list.txt cannot be listed: it has more than 100 MB"):
        open_source(str(folder / "list.txt"))
    with pytest.raises(SourceError, match=r"labels.csv cannot be read: it has more than 100 MB"):
        read_labels(str(folder / "labels.csv"), open_source(str(folder / "NORMAL")))


def test_many_threads_read_at_once(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(make_film())
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(read_regular_file(path, 10**6)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {make_film()}
    assert len(found) == 20
