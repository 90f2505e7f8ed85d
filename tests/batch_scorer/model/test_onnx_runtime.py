"""Nothing identifies this machine or reaches for a network, whatever is started and in what order.

Native code looks hosts up too, where no stand-in of Python's sockets would see it. So a filter of
system calls kills a process that addresses any host; it is inherited by what the process starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.paths import EXAMPLES

pytest.importorskip("pyseccomp", reason="only Linux has filters of system calls")

CUT_OFF = """
import os, sys
import pyseccomp as seccomp
rules = seccomp.SyscallFilter(seccomp.ALLOW)
for size in (16, 28):  # of an address in IPv4 and in IPv6; other sockets stay on this machine
    rules.add_rule(seccomp.KILL_PROCESS, "connect", seccomp.Arg(2, seccomp.EQ, size))
    rules.add_rule(seccomp.KILL_PROCESS, "sendto", seccomp.Arg(5, seccomp.EQ, size))
rules.load()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
LOAD = "from batch_scorer.model.classifier import Classifier; Classifier.load('mlp'); "
FONTS = ".cache/matplotlib/fontlist-*.json"
"""Which fonts there are: Matplotlib looks for them once."""
KERAS = ".keras/keras.json"
"""Keras writes down its own defaults."""


def start(home, *command, **environment):
    """Start Python in an empty home, cut off from every network."""
    kept = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH"}
    bare = {name: value for name, value in os.environ.items() if name in kept}
    return subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, *command],
        env={**bare, "HOME": str(home), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        pytest.param(
            ["-m", "batch_scorer", "score", str(EXAMPLES), "-o", "{out}", "--model", "mlp"],
            {FONTS},
            id="command",
        ),
        pytest.param(["-m", "batch_scorer", "doctor"], set(), id="doctor"),
        pytest.param(["-c", LOAD], set(), id="API"),
        pytest.param(["-c", f"import batch_scorer.cli.lambda_handler; {LOAD}"], set(), id="Lambda"),
        pytest.param(["-c", f"import batch_scorer.cli.http; {LOAD}"], set(), id="HTTP"),
        pytest.param(["-c", f"import batch_scorer.engine.ray; {LOAD}"], set(), id="Ray worker"),
        pytest.param(
            ["-c", "import trainer.train, trainer.tune, exporter.export"],
            {FONTS, KERAS},
            id="trainer and exporter",
        ),
    ],
)
def test_an_empty_home_stays_empty_but_for_caches(tmp_path, command, allowed):
    home = tmp_path / "home"
    home.mkdir()
    command = [part.format(out=tmp_path / "out") for part in command]
    process = start(home, *command)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    left = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in left if not any(path.match(name) for name in allowed)] == []


@pytest.mark.parametrize("asked", ["0", "false", "", "1"])
def test_what_stood_in_the_variable_turns_nothing_on(tmp_path, asked):
    process = start(tmp_path, "-c", LOAD, ORT_DISABLE_TELEMETRY=asked, XDG_CACHE_HOME=str(tmp_path))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert list(tmp_path.iterdir()) == []


def test_no_host_is_looked_up_while_onnx_runtime_alone_looks_one_up(tmp_path):
    wait = "import sys; print('ready', flush=True); sys.stdin.read()"
    with start(tmp_path, "-c", LOAD + wait) as own:
        assert own.stdout.readline() == "ready\n", own.stderr.read()
        with start(tmp_path / "other", "-c", f"import onnxruntime; {wait}") as bare:
            try:
                assert bare.wait(120) == -signal.SIGSYS
            except subprocess.TimeoutExpired:
                bare.kill()
                pytest.skip("this build of ONNX Runtime has no telemetry")
        assert own.poll() is None, own.returncode
        own.communicate()
    assert own.returncode == 0
