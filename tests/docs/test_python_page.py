"""docs/python.md is true: each command and each example runs, in the order of the page."""

from __future__ import annotations

import doctest
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import nbclient
import nbformat
import pytest

import batch_scorer
from batch_scorer.api import JobOptions
from batch_scorer.cli.score import score
from tests.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "python.md"
BLOCK = re.compile(r"^```(console|pycon|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the example images, and ``cxr`` as the shell finds it."""
    shutil.copytree(REPOSITORY / "examples" / "xrays", tmp_path / "examples" / "xrays")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("batch_scorer"), "level", logging.NOTSET)
    return tmp_path


def blocks(*kinds):
    text = PAGE.read_text(encoding="utf-8")
    return [(kind, block) for kind, block in BLOCK.findall(text) if kind in kinds]


def run_command(line):
    """Run one line of a console block; its whole output."""
    words = shlex.split(line)
    if words[0] == "cxr":
        words = [sys.executable, "-m", "batch_scorer", *words[1:]]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    return done.returncode, done.stdout + done.stderr


def check_console(block):
    """Each command succeeds, or ends with the error that the page shows."""
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        code, output = run_command(command)
        assert (code != 0) == shown.startswith("Error:"), output
        assert shown.strip() in output


@pytest.mark.slow
def test_every_command_and_every_example_of_the_page_runs(workplace):
    names: dict[str, object] = {}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    found = blocks("console", "pycon")
    assert {kind for kind, _ in found} == {"console", "pycon"}
    for kind, block in found:
        if kind == "console":
            check_console(block)
        else:
            test = parser.get_doctest(block, names, PAGE.name, str(PAGE), 0)
            assert test.examples
            faults: list[str] = []
            failed = runner.run(test, out=faults.append, clear_globs=False).failed
            assert not failed, "".join(faults)
            names = test.globs


@pytest.mark.slow
def test_the_notebook_cell_shows_a_bar_and_its_value(workplace):
    [(_, cell)] = blocks("python")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert "24/24" in "".join(output.get("text", "") for output in outputs)
    assert outputs[-1]["data"]["text/plain"] == "12"


def test_the_page_names_every_option_and_every_setting():
    text = PAGE.read_text(encoding="utf-8")
    of_the_command_alone = {"--shard", "--metrics", "--dry-run", "--deadline-h", "--log-format"}
    options = [param for param in score.params if isinstance(param, click.Option)]
    unnamed = {
        max(option.opts, key=len)
        for option in options
        if not any(name in text for name in [*option.opts, *option.secondary_opts])
    }
    assert unnamed <= of_the_command_alone
    assert [name for name in JobOptions.__annotations__ if f"{name}" not in text] == []
    calls = re.findall(r"batch_scorer\.([a-zA-Z_]+)", text)
    assert {*calls} - {"system"} <= {*batch_scorer.__all__}
