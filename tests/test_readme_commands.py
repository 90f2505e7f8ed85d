"""Every command of the pages exists as written: it is run, or the program parses it.

``NOT_RUN`` gives the reason if a command is parsed only. A command without either fails.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest

from batch_scorer.cli.main import cxr as commands
from tests.paths import EXAMPLES, REPOSITORY

PAGES = [
    *(REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
IN_TEXT = re.compile(r"`((?:cxr|make) [^`]+)`")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*$")
RUN_AS_A_WHOLE = REPOSITORY / "docs" / "python.md"  # by tests/docs/test_python_page.py
RUN = (
    "cxr score my-xrays -o out --shard 1/3",
    "cxr score my-xrays -o out --shard 2/3",
    "cxr score my-xrays -o out --shard 3/3",
    "cxr merge out",
    "cxr verify out/report.pdf",
    "cxr score my-xrays -o out --dry-run --deadline-h 8",
    "cxr bench my-xrays --model all",
)
NOT_RUN = {
    "make ": "tests run what the Makefile calls; a target inside a test would install packages",
    "--engine ray": "tests/batch_scorer/engine/test_ray.py starts clusters",
    "s3://": "needs the cloud; tests/batch_scorer/storage/test_clouds.py has servers that speak it",
    "gs://": "needs the cloud; tests/batch_scorer/storage/test_clouds.py has servers that speak it",
    "az://": "needs the cloud; tests/batch_scorer/storage/test_clouds.py has servers that speak it",
    "gcloud ": "another program",
    "az login": "another program",
    "pip install": "another program",
    "cxr train": "tests/trainer run it on films of their own",
    "cxr job": "tests/batch_scorer/jobs run it on films of their own",
}


def split(line):
    """The commands of a line, each as words without its environment and its comment."""
    for part in re.split(r"\s+#\s|$", line, maxsplit=1)[0].split("&&"):
        words = shlex.split(part)
        while words and ASSIGNMENT.match(words[0]):
            words = words[1:]
        yield words


def console_commands(pages=PAGES):
    lines = [
        line.removeprefix("$ ")
        for page in pages
        for block in CONSOLE.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return list(dict.fromkeys(shlex.join(words) for line in lines for words in split(line)))


def commands_in_text():
    texts = [IN_TEXT.findall(page.read_text(encoding="utf-8")) for page in PAGES]
    found = [shlex.join(words) for text in texts for line in text for words in split(line)]
    return [line for line in dict.fromkeys(found) if line not in console_commands()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that has whatever the README's commands name."""
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "my-xrays" / label).mkdir(parents=True)
        for image in sorted((EXAMPLES / label).iterdir())[:2]:
            shutil.copy(image, tmp_path / "my-xrays" / label)
    for folder in ("DATA", "runs/first", "chest_xray"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.pdf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(line):
    """Let click take a command apart, as it would before it runs it."""
    command, context = commands, click.Context(commands, info_name="cxr")
    words = shlex.split(line)[1:]
    while words and isinstance(command, click.Group):
        name, words = words[0], words[1:]
        command = command.get_command(context, name)
        assert command, f"there is no command {name}"
    return command.make_context(command.name, words)


def check_target(line):
    target = shlex.split(line)[1:]
    made = subprocess.run(
        ["make", "--dry-run", "-C", str(REPOSITORY), *target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def test_the_readme_has_commands():
    assert len(console_commands()) >= 15
    assert len(commands_in_text()) >= 10


@pytest.mark.parametrize("line", console_commands())
def test_a_command_is_run_or_there_is_a_reason(line):
    run = [*RUN, *console_commands([RUN_AS_A_WHOLE])]
    assert line in run or [reason for part, reason in NOT_RUN.items() if part in f"{line} "]


@pytest.mark.parametrize("line", console_commands())
@pytest.mark.usefixtures("folder")
def test_a_command_is_understood(line):
    name = shlex.split(line)[0]
    if name == "make":
        check_target(line)
    elif name == "cxr":
        parse(line)


@pytest.mark.parametrize("line", commands_in_text())
def test_a_command_that_is_spoken_of_exists(line):
    name, *words = shlex.split(line)
    if name == "make":
        check_target(line)
    elif words not in (["--help"], ["--version"]):
        command = commands.get_command(click.Context(commands), words[0])
        assert command, f"there is no command {words[0]}"
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        assert [word for word in words if word.startswith("-") and word not in known] == []


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(folder):
    shutil.rmtree(folder / "out")
    missing = [line for line in RUN if line not in console_commands() and "/3" not in line]
    assert missing == [], "no longer in the README"
    for line in RUN:
        ran = subprocess.run(
            [sys.executable, "-m", "batch_scorer", *shlex.split(line)[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, (line, ran.stderr)
