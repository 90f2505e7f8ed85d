"""Speed-up of ``cxr score --engine ray`` with a second worker, on two cores.

One worker of one thread and two such workers score the same images in turns, each on its own
cluster. For comparison, the local engine does so with one thread and with two. With Ray, the rate
excludes the first blocks, so the start of a cluster does not count; the local engine reads ahead,
so its rate covers all images. Figures are medians over turns. Ray's own processes share the two
cores.

Ray scores a small folder repeatedly under other names, because its workers remember no earlier
block. The local engine does remember, so it scores the folder once.
"""

from __future__ import annotations

import logging
import statistics
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import msgspec

from batch_scorer.engine.local import EngineJob, score_locally
from batch_scorer.engine.ray import BATCHES_PER_BLOCK, score_with_ray
from batch_scorer.model.classifier import Classifier
from batch_scorer.storage.source import open_source
from batch_scorer.system.process import BATCH_SIZE, available_cores
from benchmarks.command import BenchmarkCommand, require_packages

with require_packages():
    import ray

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from batch_scorer.results.schema import Score
    from batch_scorer.storage.source import Source

MIN_SPEEDUP = 1.8
"""The required speed of two workers, relative to one."""
WARMUP_SHARES = 4
MIN_IMAGES = 2000
CORES = 2


@click.command(
    cls=BenchmarkCommand, epilog="Example: python benchmarks/ray_scaling.py images --model vgg16"
)
@click.argument("images")
@click.option("--model", default="vgg16", show_default=True, help="A bundled model, or a path.")
@click.option("--batch-size", type=click.IntRange(1), default=BATCH_SIZE, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.pass_context
def main(ctx: click.Context, images: str, model: str, batch_size: int, turns: int) -> None:
    """Compare the speed of one worker and of two on the folder IMAGES.

    Exit code 1: two workers are less than 1.8 times as fast as one.
    """
    source = open_source(images)
    least = BATCHES_PER_BLOCK * batch_size * 2
    if available_cores() < CORES or len(source.refs) < least:
        raise click.UsageError(
            f"Expected at least {CORES} cores and {least} images, found {available_cores()} and "
            f"{len(source.refs)}."
        )
    repeated = _repeat_source(source)
    methods: dict[str, Callable[[], float]] = {
        "ray, 1 worker": lambda: _measure_ray_rate(_make_job(repeated, model, 1, batch_size), 1),
        "ray, 2 workers": lambda: _measure_ray_rate(_make_job(repeated, model, 1, batch_size), 2),
        "local, 1 thread": lambda: _measure_rate(
            score_locally(_make_job(source, model, 1, batch_size)), 0
        ),
        "local, 2 threads": lambda: _measure_rate(
            score_locally(_make_job(source, model, 2, batch_size)), 0
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(turns):
        for name, measure in methods.items():
            rates[name].append(measure())
    click.echo(
        f"{len(source.refs)} images ({len(repeated.refs)} for Ray), {model}, batch {batch_size}, "
        f"{turns} turns"
    )
    click.echo(f"{'method':20s}{'images/s':>10s}{'each turn':>30s}")
    for name, found in rates.items():
        each = " ".join(f"{rate:.1f}" for rate in found)
        click.echo(f"{name:20s}{statistics.median(found):10.1f}{each:>30s}")
    one, two = (statistics.median(rates[f"ray, {n}"]) for n in ("1 worker", "2 workers"))
    met = two / one >= MIN_SPEEDUP
    click.echo(
        f"Two workers are {two / one:.2f} times as fast as one; required: {MIN_SPEEDUP}, "
        f"{'met' if met else 'missed'}"
    )
    ctx.exit(0 if met else 1)


def _repeat_source(source: Source) -> Source:
    rounds = -(-MIN_IMAGES // len(source.refs))
    refs = [
        msgspec.structs.replace(ref, key=f"{number}/{ref.key}")
        for number in range(rounds)
        for ref in source.refs
    ]
    return replace(source, refs=tuple(refs))


def _make_job(source: Source, model: str, threads: int, batch_size: int) -> EngineJob:
    classifier = Classifier.load(model, "cpu", 1, batch_size)
    return EngineJob(
        source=source,
        refs=source.refs,
        labels={},
        classifiers=[classifier],
        known={},
        threads=threads,
        batch_size=batch_size,
        keep_atypical=True,
    )


def _measure_ray_rate(job: EngineJob, workers: int) -> float:
    """Measure images per second on a new cluster with one CPU per worker."""
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        logging_level=logging.CRITICAL,
        log_to_driver=False,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        return _measure_rate(score_with_ray(job), WARMUP_SHARES)
    finally:
        ray.shutdown()


def _measure_rate(batches: Generator[list[Score]], warm: int) -> float:
    """Measure images per second after the first ``warm`` batches of rows."""
    with closing(batches):
        for _ in range(warm):
            next(batches)
        since = time.perf_counter()
        n_images = sum(len(batch) for batch in batches)
        return n_images / (time.perf_counter() - since)


if __name__ == "__main__":
    main()
