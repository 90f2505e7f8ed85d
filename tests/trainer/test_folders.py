"""Commands that are given a folder to write refuse what can be none before they begin."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from exporter.cli import export
from trainer.audit.cli import audit
from trainer.cli import train


def make_place(tmp_path, kind):
    """A path that can be no folder."""
    path = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind in ("file", "under a file"):
        path.touch()
    names = {"empty": "", "blank": "  ", "long": "x" * 5_000, "under a file": f"{path}/models"}
    return names.get(kind, str(path))


@pytest.mark.parametrize(
    "kind", ["empty", "blank", "long", "pipe", "loop", "dangling", "file", "under a file"]
)
@pytest.mark.parametrize("command", [export, train, audit])
def test_what_can_be_no_folder_is_a_wrong_usage(tmp_path, monkeypatch, command, kind):
    place = make_place(tmp_path, kind)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(command, [str(tmp_path), "-o", place])
    assert done.exit_code == 2, done.exception
    assert "expected a folder, found" in done.output
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("run", ["", "x" * 5_000])
def test_a_run_that_can_be_no_folder_is_a_wrong_usage(tmp_path, run):
    done = CliRunner().invoke(export, [run, "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "expected a folder, found" in done.output
