"""A command that is refused the tiles of a processor knows it, and keeps its exit code."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

pytest.importorskip("pyseccomp", reason="only Linux has filters of system calls")

from benchmarks import without_amx

ASK = """
import ctypes
from batch_scorer.system.process import has_amx
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(158, 0x1023, 18), ctypes.get_errno(), has_amx())
raise SystemExit(3)
"""


def run(*command):
    return subprocess.run(
        [sys.executable, without_amx.__file__, *command],
        capture_output=True,
        text=True,
        check=False,
    )


def test_tiles_are_refused_and_the_exit_code_is_the_commands_own():
    done = run(sys.executable, "-c", ASK)
    assert done.stdout.split() == ["-1", str(errno.EPERM), "False"]
    assert done.returncode == 3


def test_options_belong_to_the_command():
    done = run(sys.executable, "--version")
    assert done.stdout.startswith("Python 3")
    assert done.returncode == 0


def test_a_command_that_is_not_there_is_named():
    done = run("no-such-command")
    assert done.returncode == 2
    assert "Expected a command, found no-such-command: No such file" in done.stderr
    assert "Traceback" not in done.stderr
