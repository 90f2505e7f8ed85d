"""What a run did as a Prometheus textfile: whole or not at all, and also where the run failed.

No label names anything of a film. Counters go on from the file that was there before, and so does
the time of the last success.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from batch_scorer.errors import (
    EXIT_FAILED,
    EXIT_NOT_ALL_SCORED,
    EXIT_OK,
    EXIT_RETRY,
    ForeignFile,
    MissingPackage,
    UsageError,
)
from batch_scorer.files import replace_file
from batch_scorer.regular_file import read_regular_file
from batch_scorer.storage import retries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from prometheus_client.core import Metric

    from batch_scorer.records import RunManifest

RETRIES, BYTES_READ = "cxr_retries", "cxr_bytes_read"
LAST_RUN = "cxr_last_run_timestamp_seconds"
MAX_TEXTFILE_BYTES = 1_000_000
LAST_SUCCESS = "cxr_last_success_timestamp_seconds"
log = logging.getLogger("cxr.gauges")


class Gauges:
    """The textfile of one command, written when the command has ended, whatever its end.

    Args:
        path: Where it goes; None where it is not asked for.

    Raises:
        MissingPackage: prometheus_client is not installed.
        UsageError: The folder is not there.
        ForeignFile: The file is there, and holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.exit_code: int | None = None
        self._path = path
        self._started = datetime.now(UTC).replace(microsecond=0)
        self._retries = retries()
        self._finished = False
        self._result: RunManifest | None = None
        self._own: list[RunManifest] = []
        if path is None:
            return
        try:
            import prometheus_client  # noqa: F401
        except ImportError as exc:
            raise MissingPackage(
                "--metrics needs prometheus_client, which is not installed.",
                'Install it with: pip install "cxr-batch[metrics]"',
            ) from exc
        if not path.parent.is_dir():
            raise UsageError(
                f"Expected a folder for the metrics at {path.parent}, found none.", "Make it first."
            )
        if not _is_own(path):
            raise ForeignFile(
                f"Expected metrics of cxr-batch in {path}, found another file.",
                "Choose another file with --metrics, or remove it.",
            )

    def tell(self, result: RunManifest | None, own: Sequence[RunManifest] | None = None) -> None:
        """Say that the command has done its work.

        Args:
            result: The run that stands now; None while others are still at work on it.
            own: The runs that this command itself made or found finished; by default the result.
        """
        self._finished = True
        self._result = result
        self._own = list(own) if own is not None else [result] if result else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if exc is not None:
            stopped = isinstance(exc, KeyboardInterrupt)
            self.exit_code = getattr(exc, "exit_code", EXIT_RETRY if stopped else EXIT_FAILED)
        if self._path:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        try:
            registry.register(_Families(list(self._collect(_read_values(path)))))
            replace_file(path, generate_latest(registry))
        except OSError as exc:
            log.warning("The metrics in %s cannot be written: %s.", path, exc.strerror or exc)

    def _collect(self, before: dict[str, float]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = time.time()
        done = self._finished and self.exit_code in {EXIT_OK, EXIT_NOT_ALL_SCORED}
        gauges: dict[str, tuple[str, float | None]] = {
            "cxr_exit_code": ("How the last command ended; 0 and 3 are finished.", self.exit_code),
            LAST_RUN: ("When the last command ended.", now),
            LAST_SUCCESS: (
                "When a command last did all its work.",
                now if done else before.get(LAST_SUCCESS),
            ),
        }
        for name, (meaning, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, meaning, value=value)
        fresh = [m for m in self._own if datetime.fromisoformat(m.started) >= self._started]
        for name, meaning, value in (
            (RETRIES, "Calls to storage that were made again.", retries() - self._retries),
            (BYTES_READ, "Bytes of films read to be scored.", sum(m.bytes_read for m in fresh)),
        ):
            yield CounterMetricFamily(name, meaning, value=before.get(f"{name}_total", 0.0) + value)
        if self._result:
            yield from _describe(self._result)


class _Families:
    """What a registry asks for: metrics that stand already."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._found


def _describe(manifest: RunManifest) -> Iterator[Metric]:
    """The gauges of a finished run."""
    from prometheus_client.core import GaugeMetricFamily

    statuses = {name: getattr(manifest, name) for name in ("scored", "rejected", "failed")}
    films = manifest.found - manifest.reused
    price = manifest.price
    parts: list[tuple[str, str, str, dict[str, float]]] = [
        ("cxr_films", "Films of the run by what became of them.", "status", statuses),
        ("cxr_run_seconds", "Seconds by stage.", "stage", manifest.seconds),
        (
            "cxr_worker_seconds",
            "Seconds within the stage score, summed over all workers.",
            "step",
            manifest.worker_seconds,
        ),
        (
            "cxr_price_per_1000_films",
            "What 1,000 films cost by the price of a core-hour that was stated.",
            "currency",
            {price.currency: price.per_1000_films} if price else {},
        ),
    ]
    for name, meaning, label, values in parts:
        if values:
            family = GaugeMetricFamily(name, meaning, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
    plain: list[tuple[str, str, Any]] = [
        ("cxr_flagged", "Films that were flagged.", manifest.flagged),
        ("cxr_films_read", "Films that the run itself read; others had a row already.", films),
        ("cxr_images_per_second", "Films a second of the stage score.", manifest.images_per_second),
        ("cxr_peak_memory_bytes", "Most memory of one process.", manifest.peak_memory_bytes),
    ]
    for name, meaning, value in plain:
        yield GaugeMetricFamily(name, meaning, value=value)


def _is_own(path: Path) -> bool:
    """Whether a file of metrics may be replaced: this program wrote it, or nothing is in it."""
    if not os.path.lexists(path):
        return True
    whole = path.is_file() and not path.is_symlink()
    return whole and (not path.stat().st_size or LAST_RUN in _read_values(path))


def _read_values(path: Path) -> dict[str, float]:
    """The values without labels of the file that is there, by name; none of any other file."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        text = read_regular_file(path, MAX_TEXTFILE_BYTES).decode("utf-8")
        families = list(text_string_to_metric_families(text))
    except (FileNotFoundError, ValueError):
        return {}
    return {s.name: s.value for family in families for s in family.samples if not s.labels}
