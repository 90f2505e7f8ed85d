"""What a run spends: its workers' seconds by step, bytes, memory, and the price of it all."""

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
"""Less is shown with as many decimals."""
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class CoreHourPrice(msgspec.Struct, frozen=True):
    """What one core costs for an hour."""

    core_hour: Amount
    currency: str = "USD"

    def compute_cost(self, core_seconds: float, films: int) -> RunCost | None:
        """The price of a run; None where it had no film to do."""
        if not films:
            return None
        cost = core_seconds / 3600 * self.core_hour
        return RunCost(self.core_hour, self.currency, films, 1000 * cost / films)


class RunCost(msgspec.Struct, frozen=True):
    """What 1,000 films cost by this run: cores x seconds x price of a core-hour / ``images``.

    ``images`` are those that the run itself read and judged, not those whose rows it took over.
    """

    core_hour: Amount
    currency: str
    images: Count
    per_1000_images: Amount

    @property
    def core_hour_price(self) -> CoreHourPrice:
        """What was stated."""
        return CoreHourPrice(self.core_hour, self.currency)


def describe_cost(price: RunCost, core_seconds: float) -> str:
    """The price of 1,000 films, and how it comes about."""
    return (
        f"{format_amount(price.per_1000_images)} {price.currency} per 1,000 films: "
        f"{core_seconds:,.1f} core-seconds for {price.images:,}, at "
        f"{format_amount(price.core_hour)} {price.currency} a core-hour"
    )


def format_amount(amount: float) -> str:
    """An amount of money to two digits at least: 12.30, 0.048, 0.00012."""
    shown = max(amount, _MIN_AMOUNT)
    decimals = 2 if shown >= 1 else max(2, 1 - math.floor(math.log10(shown)))
    return f"{amount:,.{decimals}f}"


class Usage(msgspec.Struct, frozen=True):
    """What a process spent on a share of the films, told to another one."""

    worker_seconds: dict[str, Seconds]
    bytes_read: LargeCount
    peak_memory_bytes: LargeCount


@dataclass
class UsageMeter:
    """Counts what an engine spends, from any thread.

    ``worker_seconds`` are sums over all workers, so that together they may exceed the time on the
    clock. ``cores`` are those that the engine has at hand, whether or not all of them work;
    ``peak_memory_bytes`` is that of the largest worker in another process.
    """

    cores: int = field(default_factory=available_cores)
    worker_seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((READ, DECODE, CLASSIFY), 0.0)
    )
    bytes_read: int = 0
    peak_memory_bytes: int = 0

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        """Count the seconds inside it, whatever becomes of them."""
        since = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - since
            with _LOCK:
                self.worker_seconds[step] += seconds

    def count_bytes(self, number: int) -> None:
        """Count bytes that came from the films' storage."""
        with _LOCK:
            self.bytes_read += number

    def record_peak_memory(self, peak_bytes: int) -> None:
        """Note the most memory that another process has had."""
        with _LOCK:
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak_bytes)

    def tell(self) -> Usage:
        """What was spent so far, with the most memory that this or another process has had."""
        peak_bytes = max(self.peak_memory_bytes, peak_memory_bytes())
        return Usage(self.worker_seconds, self.bytes_read, peak_bytes)

    def add(self, spent: Usage) -> None:
        """Count what another process spent."""
        with _LOCK:
            for step, seconds in spent.worker_seconds.items():
                self.worker_seconds[step] += seconds
            self.bytes_read += spent.bytes_read
            self.peak_memory_bytes = max(self.peak_memory_bytes, spent.peak_memory_bytes)
