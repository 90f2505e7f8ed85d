"""A command that receives a signal ends with 75, whatever its libraries do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from batch_scorer.cli.score import GracefulStop
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import Interrupted
from batch_scorer.results import store
from tests.paths import REPOSITORY

pytestmark = pytest.mark.slow


DRAWING = """
import logging, os, signal, sys, time
import weasyprint
from batch_scorer.cli.main import main

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
from batch_scorer.cli.main import main
from batch_scorer.storage.source import Source

mark = sys.argv.pop(1)

def read(*_):
    open(mark, "w").close()
    os.read(os.pipe()[0], 1)  # forever

Source.read = read
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
        assert not (out / store.REPORT_FILE).exists()
    again = cxr(*command)
    assert again.returncode == 0, again.stderr
    assert (out / store.REPORT_FILE).read_bytes()[-6:] == b"%%EOF\n"


def test_a_second_signal_ends_a_run_whose_reads_hang(folder, tiny_model, tmp_path):
    command = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    mark = tmp_path / "it reads"
    with start(READING, mark, *command) as run:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert time.monotonic() < deadline, "nothing was read"
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        assert run.stderr.readline() == "\n"
        assert run.stderr.readline() == "Finishing this batch. Interrupt again to stop at once.\n"
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


LOADING = """
import os, runpy, signal, sys

class Late:
    def find_spec(self, name, *_):
        if name == "batch_scorer.cli.main":
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))

sys.meta_path.insert(0, Late())
runpy.run_module("batch_scorer", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_the_command_is_loaded_ends_it_without_a_word(name):
    with start(LOADING, name) as run:
        error = run.communicate(timeout=60)[1]
    assert (run.returncode, error) == (75, "")


def test_the_script_goes_the_same_way_in():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cxr": "batch_scorer.cli.entry:main"}
    code = "import sys, batch_scorer.cli.entry; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in run.stdout.split() if name.startswith("batch_scorer")]
    assert sorted(ours) == [
        *("batch_scorer", "batch_scorer.cli", "batch_scorer.cli.entry", "batch_scorer.errors")
    ]
    assert "click" not in run.stdout.split()


@pytest.mark.parametrize("number", GracefulStop.SIGNALS)
def test_the_first_signal_ends_a_run_before_its_first_batch(number, capfd):
    with GracefulStop(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert capfd.readouterr().err == ""
    with GracefulStop() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert "Finishing this batch" in capfd.readouterr().err


def test_a_run_asks_whether_to_stop_once_before_its_first_batch(folder, tiny_model, tmp_path):
    asked = []
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),), batch_size=2, threads=1)
    with pytest.raises(Interrupted, match="2 of 6 images"):
        run_score_job(job, stop=lambda: not asked.append(None))
    assert len(asked) == 2
