"""Tests that are left out are counted and named; set-up and checks agree everywhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from batch_scorer.report.formats.weasyprint import MISSING_LIBRARY
from tests.paths import REPOSITORY

SUITE = """
import pytest
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.needs("nothing such")
def test_a_program(): pass
@pytest.mark.needs("here")
def test_another(): pass
"""
PLUGIN = """
from tests import needs
needs.NEEDS["here"] = needs.Need(lambda: True, "")
needs.NEEDS["nothing such"] = needs.Need(lambda: False, "ask for it", "absent")
from tests.conftest import *
"""


@pytest.fixture
def suite(tmp_path):
    """Run three tests with options, as `make test` and `make test-all` do; return their words."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text(PLUGIN)
    marks = [f"--override-ini=markers={mark}" for mark in ("slow\nneeds",)]

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, *marks, *options]
        return subprocess.run(
            [*map(str, command), str(tmp_path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_quick_leaves_out_the_slow_ones_and_names_them(suite, workers):
    words = suite("--quick", "--numprocesses", workers).stdout
    assert "1 passed, 2 skipped" in words
    assert "    1  slow: make test-all" in words
    assert "    1  needs nothing such: ask for it" in words


def test_all_run_where_nothing_is_said(suite):
    words = suite().stdout
    assert "2 passed, 1 skipped" in words
    assert "slow: make" not in words


def test_a_complete_run_does_not_start_without_its_programs(suite):
    ended = suite("--complete")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(r"missing: .*nothing such.*; make test-all installs them", ended.stderr)


def test_the_check_of_the_makefile_finds_the_libraries_of_the_report():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    code = re.search(r"^CAN_DRAW = \$\(BIN\)/python -c '(.+)'$", makefile, re.MULTILINE)[1]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_pre_commit_runs_the_checks_of_make_lint_and_no_other():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    checks = [line.replace("\t@$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert [hook["entry"] for hook in hooks] == checks
    assert not any(hook["pass_filenames"] for hook in hooks), "each check reads the whole tree"


def test_the_libraries_of_the_report_are_the_same_wherever_they_are_installed():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    packages = re.search(r"^REPORT_PACKAGES := (.+)$", makefile, re.MULTILINE)[1]
    assert f"apt-get install {packages} " in MISSING_LIBRARY
    assert packages in (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
