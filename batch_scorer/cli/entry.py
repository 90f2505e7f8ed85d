"""The way in of ``cxr`` and of ``python -m batch_scorer``: quick to load, and soon to be stopped.

Loading the command itself takes a few tenths of a second, in which nothing has begun: a signal then
ends the process at once, with the exit code of a run that was interrupted.
"""

from __future__ import annotations

import os
import signal

from batch_scorer.errors import EXIT_RETRY


def main() -> None:
    """Run ``cxr``; a signal that comes before it listens itself ends the process without a word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(EXIT_RETRY))
    from batch_scorer.cli.main import main as run

    run()
