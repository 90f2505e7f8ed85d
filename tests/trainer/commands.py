"""Run ``cxr`` in another process, for fixtures that outlive one test."""

from __future__ import annotations

import subprocess
import sys


def command(*arguments):
    return [sys.executable, "-m", "batch_scorer", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
