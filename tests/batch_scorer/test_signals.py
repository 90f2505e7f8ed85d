"""A command that is told to stop ends with 75, whatever a library makes of the signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from batch_scorer import ledger

DRAWING = """
import logging, os, signal, sys, time
import weasyprint
from batch_scorer.cli import main

name, kind = sys.argv.pop(1), sys.argv.pop(1)

def write_pdf(self, **options):
    try:
        os.kill(os.getpid(), getattr(signal, name))
        for _ in range(100):
            time.sleep(0.1)
    except BaseException as error:
        if kind == "complains":
            logging.getLogger("weasyprint").warning("Failed to load a picture")
        if kind == "raises":
            raise ValueError("something else") from error
        if kind == "passes":
            raise
    return b"%PDF-1.7 half a report"

weasyprint.HTML.write_pdf = write_pdf
main()
"""
READING = """
import os, sys
from batch_scorer.cli import main
from batch_scorer.source import Source

Source.read = lambda *_: os.read(os.pipe()[0], 1)  # for ever
main()
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def test_a_signal_while_the_report_is_drawn(cxr, folder, tiny_model, tmp_path):
    out = tmp_path / "out"
    command = ("score", folder, "-o", out, "--model", tiny_model)
    for name, reaction, *more in (
        *(("SIGTERM", "swallows"), ("SIGTERM", "complains"), ("SIGTERM", "raises")),
        *(("SIGTERM", "passes", "--debug"), ("SIGINT", "passes"), ("SIGINT", "raises", "--debug")),
    ):
        with start(DRAWING, name, reaction, *command, *more) as run:
            error = run.communicate(timeout=60)[1]
        assert run.returncode == 75, error
        assert error.endswith("Interrupted. Run the same command again.\n")
        assert not (out / ledger.REPORT_FILE).exists()
    again = cxr(*command)
    assert again.returncode == 0, again.stderr
    assert (out / ledger.REPORT_FILE).read_bytes()[-6:] == b"%%EOF\n"


def test_a_second_signal_ends_a_run_whose_reads_hang(folder, tiny_model, tmp_path):
    command = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    with start(READING, *command) as run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out").is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # it reads by now, or soon
        run.send_signal(signal.SIGTERM)
        assert run.stderr.readline() == "\n"
        assert run.stderr.readline() == "Finishing this batch; once more stops at once.\n"
        run.send_signal(signal.SIGTERM)
        since = time.monotonic()
        run.wait(timeout=60)
        assert time.monotonic() - since < 30
    assert run.returncode == 75


def test_debug_changes_no_exit_code(cxr, tmp_path):
    run = cxr("report", tmp_path / "empty", "--debug")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("Error: Expected a finished run")
