"""``cxr score`` on the torture folder, as a user runs it: one row a file, and nothing else said."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter

import pytest

from batch_scorer.results import store
from batch_scorer.results.tables import FORMULA_PREFIXES
from batch_scorer.storage.output import open_output
from tests.torture.folder import make_folder

pytestmark = pytest.mark.slow

MAX_MEMORY_BYTES = 1_000_000_000
"""Two threads decode at a time; a bomb that is still accepted unpacks to 200 MB at most."""


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Linux counts what a process had before it became another: this one, unlike pytest, is small."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("torture") / "films"
    return root, make_folder(root)


@pytest.fixture(scope="module")
def run(expected, tiny_model, tmp_path_factory):
    """Exit code, output, errors and peak memory of one run, report included."""
    out = tmp_path_factory.mktemp("out") / "run"
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "batch_scorer", "score"]
    command += [expected[0], "-o", out, "--model", tiny_model, "--threads", "2"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    stdout, _, peak = done.stdout.rpartition("peak ")
    unit = 1 if sys.platform == "darwin" else 1024
    return out, done.returncode, stdout, done.stderr, int(peak) * unit


def test_there_are_well_over_sixty_kinds(expected):
    assert len(expected[1]) >= 140


def test_every_file_ends_in_one_row_with_the_right_reason(expected, run):
    rows = store.read_run(open_output(run[0])).rows
    found = {row.image: (row.status, row.reason) for row in rows}
    assert len(rows) == len(found)
    assert found == expected[1]
    assert all(row.detail for row in rows if row.status != "scored")


def test_the_counts_add_up_and_are_told(expected, run):
    out, code, stdout, _, _ = run
    manifest = store.read_run(open_output(out)).manifest
    by_status = Counter(status for status, _ in expected[1].values())
    assert (manifest.scored, manifest.rejected, manifest.failed) == tuple(
        by_status[status] for status in ("scored", "rejected", "failed")
    )
    assert manifest.found == len(expected[1])
    assert code == 3
    counts = f"{manifest.scored} scored + {manifest.rejected} rejected + {manifest.failed} failed"
    assert stdout.startswith(f"Files     {manifest.found} found = {counts} (")


def test_the_terminal_hears_of_no_library(run):
    said = run[3].splitlines()
    assert said.pop(0).startswith("Patients and studies of DICOM images are omitted")
    assert all(re.fullmatch(r"scored \d+ of \d+ images", line) for line in said)
    assert "Traceback" not in run[2] + run[3]


def test_memory_is_bounded(run):
    assert run[4] < MAX_MEMORY_BYTES


def test_the_table_survives_hostile_names(expected, run):
    with (run[0] / store.CSV_FILE).open(newline="", encoding="utf-8") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    assert len(cells) == len(expected[1])
    assert not any(cell.startswith(FORMULA_PREFIXES) for cell in cells)
    assert (run[0] / store.REPORT_FILE).stat().st_size > 20_000
