"""What tests need beside the packages of ``dev``: ``@pytest.mark.needs("chromium")`` and the like.

A test whose need is missing is left out, and counted at the end by reason. ``make test-all``
installs the Debian packages that ``python -m tests.needs`` prints, and misses no program.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.paths import REAL_DATA, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

AZURITE = REPOSITORY / ".cache" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
NODE = Path(sys.executable).parent / "node"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Need:
    """Whether it is here, and how to get it; ``packages`` are Debian's, of programs that it has."""

    is_here: Callable[[], bool]
    hint: str
    packages: str = ""


def find_browser() -> str | None:
    """Return the path of Chromium or of its kin; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _has_programs(*names: str) -> bool:
    return all(map(shutil.which, names))


def _runs(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


NEEDS = {
    # libatomic1 is for Playwright's own driver, which a bare Debian cannot start.
    "chromium": Need(
        lambda: find_browser() is not None and _runs(sys.executable, "-m", "playwright", "-V"),
        "make test-all",
        "chromium libatomic1",
    ),
    "poppler": Need(lambda: _has_programs("pdfinfo"), "make test-all", "poppler-utils"),
    "espeak-ng": Need(lambda: _has_programs("espeak-ng"), "make test-all", "espeak-ng"),
    "ffmpeg": Need(lambda: _has_programs("ffmpeg", "ffprobe"), "make test-all", "ffmpeg"),
    "azurite": Need(lambda: NODE.exists() and AZURITE.exists(), "make azurite"),
    "torch": Need(lambda: _has_module("torch"), 'pip install "cxr-batch[torch]"'),
    "jax": Need(lambda: _has_module("jax"), 'pip install "cxr-batch[jax]"'),
    "real films": Need(REAL_DATA.is_dir, f"expected at {REAL_DATA}, or CXR_REAL_DATA=folder"),
    "/proc": Need(Path("/proc/self/environ").exists, "Linux"),
    "CPU affinity": Need(lambda: hasattr(os, "sched_setaffinity"), "Linux"),
    "mount": Need(
        lambda: _has_programs("unshare") and _runs("unshare", "-rm", "true"),
        "a machine where `unshare -rm` is allowed",
    ),
}


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@cache
def is_here(name: str) -> bool:
    return NEEDS[name].is_here()


def missing_programs() -> list[str]:
    """Return the needs that ``make test-all`` meets and that are missing all the same."""
    installed = [name for name, need in NEEDS.items() if need.packages or name == "azurite"]
    return [name for name in installed if not is_here(name)]


if __name__ == "__main__":
    print(*filter(None, (NEEDS[name].packages for name in missing_programs())))  # noqa: T201
