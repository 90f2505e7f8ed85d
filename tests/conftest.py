"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.images import make_film
from tests.paths import REAL_DATA
from tests.servers import run_clouds
from tests.tiny_model import save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Cloud


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write expected texts anew.")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real films run where these are, and say so where they are not."""
    if REAL_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("real_films"):
            item.add_marker(pytest.mark.skip(reason=f"no real films at {REAL_DATA}"))


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
