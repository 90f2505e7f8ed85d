"""What this process may use, and what it lets libraries print."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def available_cores() -> int:
    """Cores that this process may use: its affinity, where the system tells it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep a library's native start-up log off the terminal.

    TensorFlow writes to file descriptor 2 before its own log level takes effect. Exceptions still
    reach the caller: only what is written straight to the descriptor is dropped.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(sink)
        os.close(kept)
