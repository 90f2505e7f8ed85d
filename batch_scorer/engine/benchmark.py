"""Films a second by stage, in one process, against the ceiling that the stages themselves set.

The stages are the scorer's own functions, on the same threads. They take turns, every second turn
backwards, so that a busy machine slows all alike; what is told is the median over turns.

Reading and decoding and the models share the cores. If all cores together decode ``d`` films a
second, and the models judge ``i``, then no order of work can do more than

    ceiling = 1 / (1 / d + 1 / i)

films a second from end to end. On a GPU the two do not share: ceiling = min(d, i).
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
    """The number of films in each batch, at the moment when it is done."""

READ, DECODE, MODELS, END_TO_END = "read", "decode", "models", "end to end"
WARM_UP_BATCHES = 2


class StageSpeed(msgspec.Struct, frozen=True, rename={"images_per_second": "films_per_second"}):
    """How fast one stage is alone, all threads at it.

    ``share`` of the ceiling is None where a stage is a part of what sets it. ``p50_ms`` and
    ``p95_ms`` are milliseconds from one batch's end to the next one's.
    """

    name: str
    images_per_second: float
    share: float | None
    p50_ms: float
    p95_ms: float


class BenchmarkResult(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """What was measured, how, and on what. ``share`` is the median of each turn's own share."""

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
    """Of one stage: films a second of every turn, seconds of every batch."""

    rates: list[float] = field(default_factory=list)
    batches_s: list[float] = field(default_factory=list)


def run_benchmark(job: ScoreJob, films: int, turns: int) -> BenchmarkResult:
    """Measure the stages of a job on a sample of its films. Nothing is written.

    Args:
        job: As for ``score_batch``; its output is not looked at.
        films: The most to sample, evenly over the listing.
        turns: How often each stage is measured, after one turn that is not counted.

    Raises:
        UsageError: None of the sampled files can be decoded.
        CxrError: The source or a model cannot be used.
    """
    work, _ = prepare_sample(job, films)
    with work.decoder:
        return _measure(job, work, turns)


def _measure(job: ScoreJob, work: EngineJob, turns: int) -> BenchmarkResult:
    decoded = _decode_all(work)
    fresh = select_unseen(decoded, set())
    if not fresh:
        raise UsageError(f"None of {len(work.refs)} files sampled from {job.images} is a film.")
    stages: dict[str, Callable[[], Batches]] = {
        READ: lambda: _map_in_threads(work, work.refs, work.read),
        DECODE: lambda: _map_in_threads(work, work.refs, lambda ref: decode_image(work, ref)),
        MODELS: lambda: _run_models(work, fresh),
        END_TO_END: lambda: (len(rows) for rows in score_batches(replace(work, known={}))),
    }
    times = _time_stages(stages, turns)
    return _summarize(work, times, turns, sum(not film.pixels for film in decoded))


def prepare_sample(job: ScoreJob, films: int) -> tuple[EngineJob, int]:
    """Models, warmed up, and a sample of the films, spread evenly over the listing.

    Args:
        job: What would be scored.
        films: The most to sample.

    Returns:
        The work, and how many films the job has.

    Raises:
        UsageError: The job's shard holds no file.
        CxrError: The source or a model cannot be used.
    """
    source = open_source(job.images, job.limit, job.access)
    refs = [ref for ref in source.refs if job.shard is None or job.shard.contains(ref.key)]
    if not refs:
        raise UsageError(f"Shard {job.shard} of {source.url} holds no file.")
    places = np.linspace(0, len(refs) - 1, min(films, len(refs))).round().astype(int)
    classifiers = load_models(job)
    for classifier in classifiers:
        side = classifier.card.size_px
        blank = np.zeros((job.batch_size, side, side, 1), np.uint8)
        for _ in range(WARM_UP_BATCHES):
            classifier.predict(blank)
    work = EngineJob(
        source=source,
        refs=[refs[place] for place in places],
        labels={},
        classifiers=classifiers,
        known={},
        threads=job.threads or available_cores(),
        batch_size=job.batch_size,
        keep_atypical=job.keep_atypical,
        identifiers=job.identifiers,
    )
    return work, len(refs)


def _map_in_threads(
    work: EngineJob, refs: Sequence[ImageRef], do: Callable[[ImageRef], Any]
) -> Batches:
    """Do something with every file, in as many threads as the scorer has."""
    with ThreadPoolExecutor(work.threads) as pool:
        done = pool.map(do, refs)
        for start in range(0, len(refs), work.batch_size):
            batch = refs[start : start + work.batch_size]
            for _ in batch:
                next(done)
            yield len(batch)


def _decode_all(work: EngineJob) -> list[DecodedImage]:
    with ThreadPoolExecutor(work.threads) as pool:
        return list(pool.map(lambda ref: decode_image(work, ref), work.refs))


def _run_models(work: EngineJob, films: list[DecodedImage]) -> Batches:
    """Let the models judge decoded films, as many batches at a time as there are threads."""
    batches = [
        films[start : start + work.batch_size] for start in range(0, len(films), work.batch_size)
    ]
    with ThreadPoolExecutor(work.threads) as pool:
        waiting = deque(
            (len(batch), pool.submit(classify_images, batch, work.classifiers)) for batch in batches
        )
        while waiting:
            size, answers = waiting.popleft()
            answers.result()
            yield size


def _time_stages(stages: dict[str, Callable[[], Batches]], turns: int) -> dict[str, _StageTimes]:
    times = {name: _StageTimes() for name in stages}
    order = list(stages.items())
    for turn in range(turns + 1):
        order.reverse()
        for name, begin in order:
            start = since = time.perf_counter()
            done, seconds = 0, []
            for films in begin():
                now = time.perf_counter()
                seconds.append(now - since)
                done, since = done + films, now
            if turn:
                times[name].rates.append(done / (since - start))
                times[name].batches_s += seconds
    return times


SHARED_FORMULA, SEPARATE_FORMULA = (
    "1 / (1 / decode + 1 / models)",
    "the smaller of decode and models",
)


def _compute_ceilings(formula: str, times: dict[str, _StageTimes]) -> list[float]:
    """The ceiling of every turn, by that turn's own rates."""
    pairs = zip(times[DECODE].rates, times[MODELS].rates, strict=True)
    if formula == SEPARATE_FORMULA:
        return [min(pair) for pair in pairs]
    return [1 / (1 / decode + 1 / judge) for decode, judge in pairs]


def _summarize(
    work: EngineJob, times: dict[str, _StageTimes], turns: int, not_decoded: int
) -> BenchmarkResult:
    provider = work.classifiers[0].provider
    formula = SEPARATE_FORMULA if provider == "cuda" else SHARED_FORMULA
    ceilings = _compute_ceilings(formula, times)
    share = _median([a / c for a, c in zip(times[END_TO_END].rates, ceilings, strict=True)])
    return BenchmarkResult(
        models=[c.card.name for c in work.classifiers],
        provider=provider,
        images=len(work.refs),
        not_decoded=not_decoded,
        turns=turns,
        threads=work.threads,
        batch_size=work.batch_size,
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
