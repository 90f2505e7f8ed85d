"""Forecast a run's time, memory, cost and the number of shards that meets a deadline.

A few images, sampled evenly over the listing, go through the real scorer; the rest is
extrapolation.
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
"""Memory per row until the tables are written, as measured by benchmarks/memory.py."""


class Forecast(msgspec.Struct, frozen=True):
    """Estimated needs of a run of ``images`` on a machine like this one.

    ``unscored`` counts the sampled files that were not scored. ``start_s`` is the time that every
    task needs before its first image. ``peak_bytes`` is the peak memory of this process and its
    decoder processes while sampling. ``cores`` counts the cores available to this process, used or
    not.
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
        """Peak memory of one task that scores all images."""
        return self.peak_bytes + BYTES_PER_ROW * self.images

    @property
    def run_s(self) -> float:
        """Seconds for all images in one task."""
        return self.start_s + self.images / self.images_per_second

    def count_shards(self, deadline_s: float) -> int:
        """Count the tasks needed to finish before a deadline, each on a machine like this one.

        Args:
            deadline_s: Seconds from start to end.

        Raises:
            UsageError: The deadline is shorter than a task's start-up time.
        """
        if deadline_s <= self.start_s:
            raise UsageError(
                f"Expected a deadline longer than the start-up time of {self.start_s:.1f} s, "
                f"found {deadline_s:.1f} s.",
                "Allow more time: further shards cannot help.",
            )
        in_time = math.floor((deadline_s - self.start_s) * self.images_per_second)
        return max(1, math.ceil(self.images / max(1, in_time)))


def forecast_run(job: ScoreJob) -> Forecast:
    """Score a sample of a job's images and discard the rows. Nothing is written.

    Args:
        job: The job, as for ``run_score_job``; its output is ignored.

    Raises:
        CxrError: The source or a model cannot be used.
    """
    begun = time.perf_counter()
    engine_job, n_images = prepare_sample(job, SAMPLE_SIZE)
    started = time.perf_counter()
    rows = [row for batch in score_locally(engine_job) for row in batch]
    ended = time.perf_counter()
    return Forecast(
        images=n_images,
        sampled=len(rows),
        unscored=sum(row.status != "scored" for row in rows),
        images_per_second=len(rows) / (ended - started),
        start_s=started - begun,
        threads=engine_job.threads,
        peak_bytes=peak_memory_bytes() + engine_job.threads * engine_job.usage.peak_memory_bytes,
        cores=engine_job.usage.cores,
    )


def format_forecast(
    forecast: Forecast, deadline_h: float | None, core_hour_price: CoreHourPrice | None = None
) -> str:
    """Format a forecast as text, with shards for a deadline and the cost where requested."""
    lines = [
        f"Sample    {forecast.sampled} of {forecast.images} images: "
        f"{forecast.images_per_second:.1f} images/s with {forecast.threads} threads"
        + (f", {forecast.unscored} not scored" if forecast.unscored else ""),
        f"Time      about {_format_duration(forecast.run_s)} for all images on this machine",
        f"Memory    about {forecast.memory_bytes / 1e6:.0f} MB",
    ]
    if deadline_h is not None:
        shards = forecast.count_shards(3600 * deadline_h)
        lines.append(
            f"Shards    {shards} on machines like this one finish within "
            f"{_format_duration(3600 * deadline_h)}: "
            f"--shard 1/{shards} to --shard {shards}/{shards}"
            if shards > 1
            else f"Shards    none needed for {_format_duration(3600 * deadline_h)}"
        )
    core_seconds = forecast.cores * forecast.run_s
    if core_hour_price and (cost := core_hour_price.compute_cost(core_seconds, forecast.images)):
        lines.append(f"Cost      about {describe_cost(cost, core_seconds)}")
    return "\n".join(lines)


def _format_duration(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004 - below this, minutes would be too coarse
        return f"{math.ceil(seconds)} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
