"""How long a run would take, how much memory, and in how many shards it would be done in time.

A few films, spread evenly over the listing, go through the scorer itself; the rest is division.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.engine.benchmark import prepare_sample
from batch_scorer.engine.local import score_locally
from batch_scorer.errors import UsageError
from batch_scorer.results.usage import describe_cost
from batch_scorer.system.process import peak_memory_bytes

if TYPE_CHECKING:
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.results.usage import CoreHourPrice

SAMPLE_SIZE = 50
BYTES_PER_ROW = 3000
"""Memory for each row until the tables are written; from what benchmarks/memory.py measured."""


class Forecast(msgspec.Struct, frozen=True):
    """What a run of ``images`` would need on a machine like this one.

    ``start_s`` is what every task spends before its first film, ``peak_bytes`` the most memory that
    this process had while it probed, with that of the processes that decode for it, ``unscored`` the
    probed files that were not scored, ``cores`` what this process may use, whether or not its
    threads do.
    """

    images: int
    sampled: int
    unscored: int
    images_per_second: float
    start_s: float
    threads: int
    peak_bytes: int
    cores: int

    @property
    def memory_bytes(self) -> int:
        """The most memory that one task for all films would have."""
        return self.peak_bytes + BYTES_PER_ROW * self.images

    @property
    def run_s(self) -> float:
        """Seconds for all films in one task."""
        return self.start_s + self.images / self.images_per_second

    def count_shards(self, deadline_s: float) -> int:
        """How many tasks, each on a machine like this one, end before a deadline.

        Args:
            deadline_s: Seconds from start to end.

        Raises:
            UsageError: A task has not even started by then.
        """
        if deadline_s <= self.start_s:
            raise UsageError(
                f"A task takes {self.start_s:.1f} s to start: no number of shards is done in "
                f"{deadline_s:.1f} s."
            )
        in_time = math.floor((deadline_s - self.start_s) * self.images_per_second)
        return max(1, math.ceil(self.images / max(1, in_time)))


def forecast_run(job: ScoreJob) -> Forecast:
    """Score some films of a job and forget the rows. Nothing is written.

    Args:
        job: As for ``score_batch``; its output is not looked at.

    Raises:
        CxrError: The source or a model cannot be used.
    """
    begun = time.perf_counter()
    work, films = prepare_sample(job, SAMPLE_SIZE)
    started = time.perf_counter()
    rows = [row for batch in score_locally(work) for row in batch]
    ended = time.perf_counter()
    return Forecast(
        images=films,
        sampled=len(rows),
        unscored=sum(row.status != "scored" for row in rows),
        images_per_second=len(rows) / (ended - started),
        start_s=started - begun,
        threads=work.threads,
        peak_bytes=peak_memory_bytes() + work.threads * work.usage.peak_memory_bytes,
        cores=work.usage.cores,
    )


def format_forecast(
    forecast: Forecast, deadline_h: float | None, tariff: CoreHourPrice | None = None
) -> str:
    """The forecast as a few lines, and the shards for a deadline and the price where asked for."""
    lines = [
        f"Probed    {forecast.sampled} of {forecast.images} films: "
        f"{forecast.images_per_second:.1f} films/s with {forecast.threads} threads"
        + (f", {forecast.unscored} not scored" if forecast.unscored else ""),
        f"Time      about {_format_duration(forecast.run_s)} for all of them on this machine",
        f"Memory    about {forecast.memory_bytes / 1e6:.0f} MB",
    ]
    if deadline_h is not None:
        shards = forecast.count_shards(3600 * deadline_h)
        lines.append(
            f"Shards    {shards} on machines like this one are done in "
            f"{_format_duration(3600 * deadline_h)}: --shard 1/{shards} to --shard {shards}/{shards}"
            if shards > 1
            else f"Shards    none needed for {_format_duration(3600 * deadline_h)}"
        )
    core_seconds = forecast.cores * forecast.run_s
    if tariff and (price := tariff.compute_cost(core_seconds, forecast.images)):
        lines.append(f"Price     about {describe_cost(price, core_seconds)}")
    return "\n".join(lines)


def _format_duration(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004 - tells seconds where minutes would be coarse
        return f"{math.ceil(seconds)} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
