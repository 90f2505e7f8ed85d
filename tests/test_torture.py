"""``cxr score`` on the torture folder, as a user runs it: one row a file, and nothing else said."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from batch_scorer import ledger
from tests.torture.folder import make_folder

MAX_MEMORY_BYTES = 1_000_000_000
"""Two threads decode at a time; a bomb that is still accepted unpacks to 200 MB at most."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("torture") / "films"
    return root, make_folder(root)


@pytest.fixture(scope="module")
def run(expected, tiny_model, tmp_path_factory):
    """Exit code, output, errors and peak memory of one run, report included."""
    out = tmp_path_factory.mktemp("out") / "run"
    command = [sys.executable, "-m", "batch_scorer", "score", expected[0], "-o", out]
    command += ["--model", tiny_model, "--threads", "2"]
    with (
        (out.parent / "stdout").open("w+") as stdout,
        (out.parent / "stderr").open("w+") as stderr,
        subprocess.Popen([*map(str, command)], stdout=stdout, stderr=stderr) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        return out, process.returncode, stdout.read(), stderr.read(), usage.ru_maxrss * unit


def test_there_are_well_over_sixty_kinds(expected):
    assert len(expected[1]) >= 140


def test_every_file_ends_in_one_row_with_the_right_reason(expected, run):
    rows = ledger.read_run(run[0])[1]
    found = {row.image: (row.status, row.reason) for row in rows}
    assert len(rows) == len(found)
    assert found == expected[1]
    assert all(row.detail for row in rows if row.status != "scored")


def test_the_counts_add_up_and_are_told(expected, run):
    out, code, stdout, _, _ = run
    manifest = ledger.read_run(out)[0]
    by_status = Counter(status for status, _ in expected[1].values())
    assert (manifest.scored, manifest.rejected, manifest.failed) == tuple(
        by_status[status] for status in ("scored", "rejected", "failed")
    )
    assert manifest.found == len(expected[1])
    assert code == 3
    assert stdout.startswith(f"Films     {len(expected[1])}: ")


def test_the_terminal_hears_of_no_library(run):
    said = run[3].splitlines()
    assert said.pop(0).startswith("Patients and studies of DICOM films are left out")
    assert all(re.fullmatch(r"scored \d+ of \d+ films", line) for line in said)
    assert "Traceback" not in run[2] + run[3]


def test_memory_is_bounded(run):
    assert run[4] < MAX_MEMORY_BYTES


def test_the_table_survives_hostile_names(expected, run):
    with (run[0] / ledger.CSV_FILE).open(newline="", encoding="utf-8") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    assert len(cells) == len(expected[1])
    assert not any(cell.startswith(ledger.FORMULA_STARTS) for cell in cells)
    assert (run[0] / ledger.REPORT_FILE).stat().st_size > 20_000
