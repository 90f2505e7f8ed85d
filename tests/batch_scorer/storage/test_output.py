"""Places for results: whole files or none, on disk and in an object store's manner."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import OutputError, UsageError
from batch_scorer.results import store
from batch_scorer.storage.output import open_output


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    output = open_output(tmp_path / "out" if request.param == "disk" else "memory://place/out")
    output.prepare()
    yield output
    output.filesystem.rm(output.root, recursive=True)


def test_what_is_written_is_read_and_listed_and_removed(place):
    assert place.read("a.txt") is None
    assert place.list_files("folder") == []
    place.write("a.txt", b"one")
    place.write("a.txt", b"two")
    place.write("folder/b.txt", b"b")
    place.write("folder/below/c.txt", b"c")
    assert place.read("a.txt") == b"two"
    assert place.list_files("folder") == ["folder/b.txt", "folder/below/c.txt"]
    assert place.subfolder("folder").read("b.txt") == b"b"
    place.remove("a.txt", "never.txt")
    place.remove("folder/b.txt", "folder/below/c.txt")
    place.remove_empty_folder("never")
    assert place.read("a.txt") is None
    assert place.list_files("folder") == []


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    place = open_output(tmp_path)
    place.write("a.txt", b"old")

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OutputError, match=r"a.txt in .* cannot be written: No space left"):
        place.write("a.txt", b"new")
    assert place.read("a.txt") == b"old"
    assert place.list_files("folder") == []


def test_a_run_may_go_to_any_file_system(folder, tmp_path, tiny_model):
    run_score_job(ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),)))
    remote = ScoreJob(str(folder), "memory://somewhere/out", (str(tiny_model),))
    first = run_score_job(remote)
    assert run_score_job(remote) == first
    place = open_output(remote.output)
    assert place.read(store.CSV_FILE) == (tmp_path / "out" / store.CSV_FILE).read_bytes()
    assert store.read_run(place).manifest.scored == 6
    assert place.list_files("journal") == []
    place.filesystem.rm("/somewhere", recursive=True)


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_create_a_file_on_disk_one_succeeds(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")  # as a mounted bucket says

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    place = open_output(tmp_path)
    place.check_exclusive_create()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: place.create("folder/a.txt", b"%d" % n), range(40)))
    assert won.count(True) == 1
    assert place.read("folder/a.txt") == b"%d" % won.index(True)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.txt"]


def test_no_name_is_no_place():
    with pytest.raises(UsageError, match="found an empty name"):
        open_output(" ")
