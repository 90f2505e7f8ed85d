"""The lock of an output: the lease of the one run that may write there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

from batch_scorer.storage.lease import DEFAULT_TERM_S, acquire_lease, sleep_interruptibly

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.storage.lease import Lease
    from batch_scorer.storage.output import Output

_RUN_LEASE = "run"


class OutputLock:
    """The right to write into an output: taken on first use, given back at the end of the block."""

    def __init__(self, output: Output, stop: Callable[[], bool] | None = None) -> None:
        self._output, self._stop = output, stop
        self._lease: Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lease:
            self._lease.__exit__(*exc)
            self._lease = None

    @property
    def inherited(self) -> bool:
        """True if the previous run ended without giving the lock back."""
        return self._lease is not None and self._lease.inherited

    def check(self) -> None:
        """Take the lock, or make sure that this process still holds it.

        Raises:
            AlreadyRunning: Another run is writing there.
            Interrupted: The run was asked to stop while it waited.
            OutputError, TransientError: The output cannot be read or written.
        """
        if self._lease:
            self._lease.check()
            return
        sleep = partial(sleep_interruptibly, self._stop)
        what = f"the results in {self._output.url}"
        self._lease = acquire_lease(
            self._output.internal, _RUN_LEASE, DEFAULT_TERM_S, sleep, what
        ).__enter__()
