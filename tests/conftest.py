"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests import needs
from tests.images import make_film
from tests.servers import run_clouds
from tests.tiny_model import save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Cloud

SLOW = ("cloud", "ray", "slow")
"""The markers of what ``make test`` leaves out; pyproject.toml describes each."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write expected texts anew.")
    parser.addoption("--quick", action="store_true", help="Leave out what takes long (make test).")
    parser.addoption(
        "--complete",
        action="store_true",
        help="Fail at once where a program that tests need is missing (make test-all).",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--complete") and (missing := needs.missing_programs()):
        raise pytest.UsageError(f"missing: {', '.join(missing)}; make test-all installs them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is asked for or cannot run; files with slow tests come first.

    A long file that comes last keeps one worker busy while the others wait.
    """
    slow = {item.path for item in items if any(map(item.get_closest_marker, SLOW))}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if reason := _why_left_out(item, quick=config.getoption("--quick")):
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_left_out(item: pytest.Item, *, quick: bool) -> str | None:
    if quick and (markers := [name for name in SLOW if item.get_closest_marker(name)]):
        return f"{markers[0]}: make test-all"
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if not needs.is_here(name):
                return f"needs {name}: {needs.NEEDS[name].hint}"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out: how many tests, by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("left out")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def clouds() -> Iterator[dict[str, Cloud]]:
    with run_clouds() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six films in two classes: bright ones are PNEUMONIA."""
    root = tmp_path / "xrays"
    for index, (label, brightness) in enumerate(
        [("NORMAL", 60), ("NORMAL", 80), ("NORMAL", 100), *[("PNEUMONIA", 180)] * 3]
    ):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"film_{index}.png").write_bytes(make_film(brightness, seed=index))
    return root


@pytest.fixture
def cxr(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``cxr`` as a user does: another process, its exit code and its output."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "batch_scorer", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run
