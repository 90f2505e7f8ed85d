"""Benchmark each stage of the scorer in one process, against the ceiling that the stages set.

The stages are the scorer's own functions on the same threads. They take turns, every second turn in
reverse order, so that other load on the machine slows them equally. Results are medians over turns.

Decoding and the models share the cores. If all cores together decode ``d`` images per second, and
the models classify ``i``, then no schedule can exceed

    ceiling = 1 / (1 / d + 1 / i)

images per second end to end. On a GPU the two do not compete: ceiling = min(d, i).
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer import __version__
from batch_scorer.engine.local import EngineJob, decode_image, score_batches
from batch_scorer.engine.predict import classify_images, select_unseen
from batch_scorer.engine.runner import load_models
from batch_scorer.errors import UsageError
from batch_scorer.storage.source import open_source
from batch_scorer.system.process import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batch_scorer.engine.predict import DecodedImage
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.storage.listing import ImageRef

    Batches = Iterator[int]
    """The number of images in each batch, yielded when the batch is done."""

READ, DECODE, MODELS, END_TO_END = "read", "decode", "models", "end to end"
WARM_UP_BATCHES = 2


class StageSpeed(msgspec.Struct, frozen=True, rename={"images_per_second": "films_per_second"}):
    """Speed of one stage, measured alone with all threads.

    ``share`` is the stage's share of the ceiling, None for a stage that sets the ceiling.
    ``p50_ms`` and ``p95_ms`` are milliseconds from the end of one batch to the end of the next.
    """

    name: str
    images_per_second: float
    share: float | None
    p50_ms: float
    p95_ms: float


class BenchmarkResult(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Speeds and settings of one benchmark. ``share`` is the median over each turn's own share."""

    models: list[str]
    provider: str
    images: int
    not_decoded: int
    turns: int
    threads: int
    batch_size: int
    version: str
    ceiling: float
    formula: str
    share: float
    stages: list[StageSpeed]


@dataclass
class _StageTimes:
    """Images per second of every turn and seconds of every batch, for one stage."""

    rates: list[float] = field(default_factory=list)
    batches_s: list[float] = field(default_factory=list)


def run_benchmark(job: ScoreJob, max_images: int, turns: int) -> BenchmarkResult:
    """Measure the stages of a job on a sample of its images. Nothing is written.

    Args:
        job: The job, as for ``run_score_job``; its output is ignored.
        max_images: Maximum number of images to sample, evenly over the listing.
        turns: Number of measurements per stage, after one warm-up turn that is not counted.

    Raises:
        UsageError: None of the sampled files can be decoded.
        CxrError: The source or a model cannot be used.
    """
    engine_job, _ = prepare_sample(job, max_images)
    with engine_job.decoder:
        return _measure(job, engine_job, turns)


def _measure(job: ScoreJob, engine_job: EngineJob, turns: int) -> BenchmarkResult:
    decoded = _decode_all(engine_job)
    unseen = select_unseen(decoded, set())
    if not unseen:
        raise UsageError(
            f"Expected X-rays in {job.images}, found none in a sample of "
            f"{len(engine_job.refs)} files.",
            "Check that the files are images.",
        )
    stages: dict[str, Callable[[], Batches]] = {
        READ: lambda: _map_in_threads(engine_job, engine_job.refs, engine_job.read),
        DECODE: lambda: _map_in_threads(
            engine_job, engine_job.refs, lambda ref: decode_image(engine_job, ref)
        ),
        MODELS: lambda: _run_models(engine_job, unseen),
        END_TO_END: lambda: (len(rows) for rows in score_batches(replace(engine_job, known={}))),
    }
    times = _time_stages(stages, turns)
    return _summarize(engine_job, times, turns, sum(not image.pixels for image in decoded))


def prepare_sample(job: ScoreJob, max_images: int) -> tuple[EngineJob, int]:
    """Load and warm up the models, and sample images evenly over the listing.

    Args:
        job: The job to sample.
        max_images: Maximum number of images to sample.

    Returns:
        The engine job on the sample, and the number of images in the whole job.

    Raises:
        UsageError: The job's shard holds no file.
        CxrError: The source or a model cannot be used.
    """
    source = open_source(job.images, job.limit, job.access)
    refs = [ref for ref in source.refs if job.shard is None or job.shard.contains(ref.key)]
    if not refs:
        raise UsageError(
            f"Expected files in shard {job.shard} of {source.url}, found none.",
            "Choose a smaller number of shards.",
        )
    indices = np.linspace(0, len(refs) - 1, min(max_images, len(refs))).round().astype(int)
    classifiers = load_models(job)
    for classifier in classifiers:
        side = classifier.card.size_px
        blank = np.zeros((job.batch_size, side, side, 1), np.uint8)
        for _ in range(WARM_UP_BATCHES):
            classifier.predict(blank)
    engine_job = EngineJob(
        source=source,
        refs=[refs[index] for index in indices],
        labels={},
        classifiers=classifiers,
        known={},
        threads=job.threads or available_cores(),
        batch_size=job.batch_size,
        keep_atypical=job.keep_atypical,
        identifiers=job.identifiers,
    )
    return engine_job, len(refs)


def _map_in_threads(
    job: EngineJob, refs: Sequence[ImageRef], function: Callable[[ImageRef], Any]
) -> Batches:
    """Apply a function to every file, in as many threads as the scorer uses."""
    with ThreadPoolExecutor(job.threads) as pool:
        done = pool.map(function, refs)
        for start in range(0, len(refs), job.batch_size):
            batch = refs[start : start + job.batch_size]
            for _ in batch:
                next(done)
            yield len(batch)


def _decode_all(job: EngineJob) -> list[DecodedImage]:
    with ThreadPoolExecutor(job.threads) as pool:
        return list(pool.map(lambda ref: decode_image(job, ref), job.refs))


def _run_models(job: EngineJob, images: list[DecodedImage]) -> Batches:
    """Run the models on decoded images, as many batches at a time as there are threads."""
    batches = [
        images[start : start + job.batch_size] for start in range(0, len(images), job.batch_size)
    ]
    with ThreadPoolExecutor(job.threads) as pool:
        pending = deque(
            (len(batch), pool.submit(classify_images, batch, job.classifiers)) for batch in batches
        )
        while pending:
            size, future = pending.popleft()
            future.result()
            yield size


def _time_stages(stages: dict[str, Callable[[], Batches]], turns: int) -> dict[str, _StageTimes]:
    times = {name: _StageTimes() for name in stages}
    order = list(stages.items())
    for turn in range(turns + 1):
        order.reverse()
        for name, begin in order:
            start = since = time.perf_counter()
            done, seconds = 0, []
            for n_images in begin():
                now = time.perf_counter()
                seconds.append(now - since)
                done, since = done + n_images, now
            if turn:
                times[name].rates.append(done / (since - start))
                times[name].batches_s += seconds
    return times


SHARED_FORMULA, SEPARATE_FORMULA = (
    "1 / (1 / decode + 1 / models)",
    "the smaller of decode and models",
)


def _compute_ceilings(formula: str, times: dict[str, _StageTimes]) -> list[float]:
    """Compute the ceiling of every turn from that turn's own rates."""
    pairs = zip(times[DECODE].rates, times[MODELS].rates, strict=True)
    if formula == SEPARATE_FORMULA:
        return [min(pair) for pair in pairs]
    return [1 / (1 / decode + 1 / models) for decode, models in pairs]


def _summarize(
    job: EngineJob, times: dict[str, _StageTimes], turns: int, not_decoded: int
) -> BenchmarkResult:
    provider = job.classifiers[0].provider
    formula = SEPARATE_FORMULA if provider == "cuda" else SHARED_FORMULA
    ceilings = _compute_ceilings(formula, times)
    share = _median([a / c for a, c in zip(times[END_TO_END].rates, ceilings, strict=True)])
    return BenchmarkResult(
        models=[c.card.name for c in job.classifiers],
        provider=provider,
        images=len(job.refs),
        not_decoded=not_decoded,
        turns=turns,
        threads=job.threads,
        batch_size=job.batch_size,
        version=__version__,
        ceiling=_median(ceilings),
        formula=formula,
        share=share,
        stages=[
            StageSpeed(
                name,
                _median(stage.rates),
                share if name == END_TO_END else None,
                *(1000 * float(np.percentile(stage.batches_s, p)) for p in (50, 95)),
            )
            for name, stage in times.items()
        ],
    )


def _median(values: list[float]) -> float:
    return float(np.median(values))
