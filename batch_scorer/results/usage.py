"""Usage and cost of a run: its workers' seconds by step, bytes, memory, and their price."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec

from batch_scorer.system.process import available_cores, peak_memory_bytes
from batch_scorer.system.strict_json import Count, LargeCount, Seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

READ, DECODE, CLASSIFY = "read", "decode", "classify"
_LOCK = threading.Lock()
_MIN_AMOUNT = 1e-9
"""Smaller amounts get the decimals of this one."""
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class CoreHourPrice(msgspec.Struct, frozen=True):
    """The price of one core for an hour."""

    core_hour: Amount
    currency: str = "USD"

    def compute_cost(self, core_seconds: float, images: int) -> RunCost | None:
        """Compute the cost of a run; None if it scored no image."""
        if not images:
            return None
        cost = core_seconds / 3600 * self.core_hour
        return RunCost(self.core_hour, self.currency, images, 1000 * cost / images)


class RunCost(msgspec.Struct, frozen=True):
    """The cost of 1,000 images: cores x seconds x price of a core-hour / ``images``.

    ``images`` counts those that the run itself scored, without reused rows.
    """

    core_hour: Amount
    currency: str
    images: Count
    per_1000_images: Amount

    @property
    def core_hour_price(self) -> CoreHourPrice:
        """The price that the user gave."""
        return CoreHourPrice(self.core_hour, self.currency)


def describe_cost(cost: RunCost, core_seconds: float) -> str:
    """Describe the cost of 1,000 images and its calculation."""
    return (
        f"{format_amount(cost.per_1000_images)} {cost.currency} per 1,000 films: "
        f"{core_seconds:,.1f} core-seconds for {cost.images:,}, at "
        f"{format_amount(cost.core_hour)} {cost.currency} a core-hour"
    )


def format_amount(amount: float) -> str:
    """Format an amount of money with at least two significant digits: 12.30, 0.048, 0.00012."""
    clamped = max(amount, _MIN_AMOUNT)
    decimals = 2 if clamped >= 1 else max(2, 1 - math.floor(math.log10(clamped)))
    return f"{amount:,.{decimals}f}"


class Usage(msgspec.Struct, frozen=True):
    """Usage of one worker process, sent to the process that sums it up."""

    worker_seconds: dict[str, Seconds]
    bytes_read: LargeCount
    peak_memory_bytes: LargeCount


@dataclass
class UsageMeter:
    """Thread-safe meter of an engine's usage.

    ``worker_seconds`` sums all workers, and may exceed the elapsed time. ``cores`` counts the
    available cores, idle or not. ``peak_memory_bytes`` is the peak of the largest worker in another
    process.
    """

    cores: int = field(default_factory=available_cores)
    worker_seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((READ, DECODE, CLASSIFY), 0.0)
    )
    bytes_read: int = 0
    peak_memory_bytes: int = 0

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        """Add the seconds of the block, even if it raises an error."""
        since = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - since
            with _LOCK:
                self.worker_seconds[step] += seconds

    def count_bytes(self, size_bytes: int) -> None:
        """Add bytes that were read from the images' storage."""
        with _LOCK:
            self.bytes_read += size_bytes

    def record_peak_memory(self, peak_bytes: int) -> None:
        """Record the peak memory of another process."""
        with _LOCK:
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak_bytes)

    def snapshot(self) -> Usage:
        """Return the usage so far, with the peak memory of any process."""
        peak_bytes = max(self.peak_memory_bytes, peak_memory_bytes())
        return Usage(self.worker_seconds, self.bytes_read, peak_bytes)

    def add(self, usage: Usage) -> None:
        """Add the usage of another process."""
        with _LOCK:
            for step, seconds in usage.worker_seconds.items():
                self.worker_seconds[step] += seconds
            self.bytes_read += usage.bytes_read
            self.peak_memory_bytes = max(self.peak_memory_bytes, usage.peak_memory_bytes)
