"""Results of a run as a Prometheus textfile, written atomically, even if the run failed.

No label identifies an image. Counters and the time of the last success continue from the existing
file.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from batch_scorer.errors import (
    EXIT_FAILED,
    EXIT_NOT_ALL_SCORED,
    EXIT_OK,
    EXIT_RETRY,
    MissingPackage,
    UsageError,
)
from batch_scorer.storage.filesystem import count_retries, is_local, open_filesystem
from batch_scorer.storage.output_file import OutputFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from prometheus_client.core import Metric

    from batch_scorer.results.schema import RunManifest

RETRIES, BYTES_READ = "cxr_retries", "cxr_bytes_read"
LAST_RUN = "cxr_last_run_timestamp_seconds"
MAX_TEXTFILE_BYTES = 1_000_000
LAST_SUCCESS = "cxr_last_success_timestamp_seconds"
log = logging.getLogger(__name__)


class MetricsFile:
    """The textfile of one command, written when the command ends, even if it fails.

    Args:
        path: Path of the file; None writes no file.
        output: The command's output for results; None if it has none.

    Raises:
        MissingPackage: prometheus_client is not installed.
        UsageError: The folder does not exist, or is inside the output.
        ForeignFile: The file exists and holds something else.
    """

    def __init__(self, path: Path | None, output: str | None = None) -> None:
        self.exit_code: int | None = None
        self._file: OutputFile | None = None
        self._started = datetime.now(UTC).replace(microsecond=0)
        self._retries = count_retries()
        self._finished = False
        self._result: RunManifest | None = None
        self._own: list[RunManifest] = []
        if path is None:
            return
        try:
            import prometheus_client  # noqa: F401
        except ImportError as exc:
            raise MissingPackage(
                "Expected the package prometheus_client for --metrics, found none.",
                'Install it with: pip install "cxr-batch[metrics]"',
            ) from exc
        if output is not None and _is_inside(path, output):
            raise UsageError(
                f"Expected a metrics file outside the output, found {path}.",
                "Choose another file with --metrics.",
            )
        if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir fails on long names
            raise UsageError(
                f"Expected a folder for the metrics at {path.parent}, found none.",
                "Create it first.",
            )
        self._file = OutputFile(
            path,
            "--metrics",
            "metrics of cxr-batch",
            MAX_TEXTFILE_BYTES,
            lambda data: LAST_RUN in _parse_values(data),
        )
        self._file.read()

    def set_result(
        self, result: RunManifest | None, own: Sequence[RunManifest] | None = None
    ) -> None:
        """Record that the command has done its work.

        Args:
            result: The whole run; None while other tasks still work on it.
            own: Runs that this command made or found finished; by default the result.
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
        if self._file:
            self._write(self._file)

    def _write(self, file: OutputFile) -> None:
        """Write the file, or log the failure, which must not hide the command's own error."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        try:
            before = _parse_values(file.read())
            registry.register(_StaticCollector(list(self._collect(before))))
            file.replace(generate_latest(registry))
        except UsageError as exc:
            log.warning("The metrics were not written. %s", exc)
        except OSError as exc:
            log.warning("Cannot write the metrics to %s: %s.", file.path, exc.strerror or exc)

    def _collect(self, before: dict[str, float]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = time.time()
        done = self._finished and self.exit_code in {EXIT_OK, EXIT_NOT_ALL_SCORED}
        gauges: dict[str, tuple[str, float | None]] = {
            "cxr_exit_code": (
                "Exit code of the last command; 0 and 3 mean finished.",
                self.exit_code,
            ),
            LAST_RUN: ("Time when the last command ended.", now),
            LAST_SUCCESS: (
                "Time when a command last finished its work.",
                now if done else before.get(LAST_SUCCESS),
            ),
        }
        for name, (meaning, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, meaning, value=value)
        new_runs = [m for m in self._own if datetime.fromisoformat(m.started) >= self._started]
        for name, meaning, value in (
            (RETRIES, "Retried calls to storage.", count_retries() - self._retries),
            (BYTES_READ, "Bytes of images read for scoring.", sum(m.bytes_read for m in new_runs)),
        ):
            yield CounterMetricFamily(name, meaning, value=before.get(f"{name}_total", 0.0) + value)
        if self._result:
            yield from _collect_run(self._result)


class _StaticCollector:
    """Collector of metrics that exist already."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        """Return all metrics."""
        return self._found


def _collect_run(manifest: RunManifest) -> Iterator[Metric]:
    """Yield the gauges of a finished run."""
    from prometheus_client.core import GaugeMetricFamily

    statuses = {name: getattr(manifest, name) for name in ("scored", "rejected", "failed")}
    n_images = manifest.found - manifest.reused
    cost = manifest.cost
    parts: list[tuple[str, str, str, dict[str, float]]] = [
        ("cxr_films", "Images of the run by status.", "status", statuses),
        ("cxr_run_seconds", "Seconds by stage.", "stage", manifest.seconds),
        (
            "cxr_worker_seconds",
            "Seconds within the stage score, summed over all workers.",
            "step",
            manifest.worker_seconds,
        ),
        (
            "cxr_price_per_1000_films",
            "Cost of 1,000 images at the stated price of a core-hour.",
            "currency",
            {cost.currency: cost.per_1000_images} if cost else {},
        ),
    ]
    for name, meaning, label, values in parts:
        if values:
            family = GaugeMetricFamily(name, meaning, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
    plain: list[tuple[str, str, Any]] = [
        ("cxr_flagged", "Flagged images.", manifest.flagged),
        (
            "cxr_films_read",
            "Images that the run itself read; the others already had a row.",
            n_images,
        ),
        (
            "cxr_images_per_second",
            "Images per second in the stage score.",
            manifest.images_per_second,
        ),
        ("cxr_peak_memory_bytes", "Peak memory of one process.", manifest.peak_memory_bytes),
    ]
    for name, meaning, value in plain:
        yield GaugeMetricFamily(name, meaning, value=value)


def _is_inside(path: Path, output: str) -> bool:
    """Return whether a file lies in a local output, by any spelling or link."""
    filesystem, root = open_filesystem(output)
    parent = Path(os.path.realpath(path.parent))
    output_folder = Path(os.path.realpath(root))
    return is_local(filesystem) and output_folder in (parent / path.name, parent, *parent.parents)


def _parse_values(data: bytes) -> dict[str, float]:
    """Parse the unlabelled values of a textfile by name; empty if it is not a textfile."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(data.decode("utf-8")))
    except ValueError:
        return {}
    return {s.name: s.value for family in families for s in family.samples if not s.labels}
