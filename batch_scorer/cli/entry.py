"""Entry point of ``cxr`` and ``python -m batch_scorer``, quick to load and to stop.

Loading the command takes a few tenths of a second, before any work starts. A signal in that time
ends the process at once, with the exit code of an interrupted run.
"""

from __future__ import annotations

import os
import signal

from batch_scorer.errors import EXIT_RETRY


def main() -> None:
    """Run ``cxr``; until its own handlers are installed, a signal ends the process silently."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(EXIT_RETRY))
    from batch_scorer.cli.main import main as run

    run()
