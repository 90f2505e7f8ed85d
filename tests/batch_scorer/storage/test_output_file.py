"""A single file that was named on the command line: nothing else is replaced under its name."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from batch_scorer.cli.inspect import _make_output_file
from batch_scorer.cli.prometheus import MetricsFile
from batch_scorer.errors import ForeignFile


def pipe(path):
    os.mkfifo(path)


def link(path):
    (path.parent / "empty").touch()
    path.symlink_to("empty")


def link_to_nothing(path):
    path.symlink_to("nowhere")


def folder(path):
    path.mkdir()


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def endpoint(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def huge(path):
    path.touch()
    os.truncate(path, 2**40)


def text(data):
    def write(path):
        path.write_bytes(data)

    return write


OTHERS = {
    "pipe": pipe,
    "device": device,
    "socket": endpoint,
    "link": link,
    "link to nothing": link_to_nothing,
    "folder": folder,
    "sparse file without end": huge,
    "text": text(b"Dear diary"),
    "bytes": text(b"\xff\x00"),
    "other metrics": text(b"up 1\n"),
    "torn metrics": text(b'a{b="c} 1\n'),
    "other JSON": text(b'{"dear": "diary"}'),
    "deep JSON": text(b"[" * 100_000),
}
OPENED = {
    "--json": lambda path: _make_output_file(path).read(),
    "--metrics": MetricsFile,
}


def look(folder):
    """Kind, time and target of everything in a folder."""
    return {
        path.name: (path.lstat().st_mode, path.lstat().st_ino, path.lstat().st_mtime_ns)
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("option", OPENED)
@pytest.mark.parametrize("other", OTHERS)
def test_something_else_is_refused_and_stays(tmp_path, monkeypatch, other, option):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    OTHERS[other](Path("named"))
    before = look(tmp_path)
    with pytest.raises(ForeignFile, match=rf"in named, found .*{option}"):
        OPENED[option](Path("named"))
    assert look(tmp_path) == before


@pytest.mark.parametrize("option", OPENED)
def test_a_new_file_and_an_empty_one_are_taken(tmp_path, option):
    (tmp_path / "empty").touch()
    before = look(tmp_path)
    OPENED[option](tmp_path / "new")
    OPENED[option](tmp_path / "empty")
    assert look(tmp_path) == before, "nothing is written before there is something to say"


@pytest.mark.parametrize("other", OTHERS)
def test_what_came_meanwhile_is_not_replaced(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    file = _make_output_file(Path("named"))
    assert file.read() == b""
    OTHERS[other](Path("named"))
    before = look(tmp_path)
    with pytest.raises(ForeignFile):
        file.replace(b"{}")
    assert look(tmp_path) == before
