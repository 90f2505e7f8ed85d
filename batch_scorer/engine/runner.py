"""The one scoring loop: source -> decode -> classify -> record.

Existing results are reused. The remaining images go through an engine, batch by batch, and each
batch is in the checkpoint before the next one starts. At the end all rows are written at once.
Nothing here prints or parses a command line: progress goes to a callback, and the result is a
``RunManifest``.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from typing import TYPE_CHECKING

from batch_scorer.engine.local import PREFETCH_BATCHES, EngineJob, score_locally
from batch_scorer.engine.run_plan import find_finished_run, plan_run, refresh_plan
from batch_scorer.errors import Interrupted, OutputError, Unreadable, UsageError
from batch_scorer.model.classifier import Classifier, load_if_unchanged
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.results.checkpoint import find_checkpoint_files
from batch_scorer.results.claim import claim_run
from batch_scorer.results.commit import (
    ReportImageSource,
    ScoredRun,
    commit_run,
    format_start_time,
    mark_duplicates,
)
from batch_scorer.results.schema import ModelUsed, RunFacts
from batch_scorer.results.thumbnails import ReportImages
from batch_scorer.storage.filesystem import count_retries
from batch_scorer.storage.output_lock import OutputLock
from batch_scorer.system.log import bind_fields, log_event
from batch_scorer.system.process import available_cores
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from batch_scorer.engine.run_plan import RunPlan
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.results.schema import RunManifest, Score
    from batch_scorer.storage.lease import Lease
    from batch_scorer.storage.source import Source

    ProgressCallback = Callable[[int, int], None]


def _score_with_ray(job: EngineJob) -> Generator[list[Score]]:
    from batch_scorer.engine.ray import score_with_ray

    return score_with_ray(job)


ENGINES: dict[str, Callable[[EngineJob], Generator[list[Score]]]] = {
    "local": score_locally,
    "ray": _score_with_ray,
}


def run_score_job(
    job: ScoreJob,
    progress: ProgressCallback | None = None,
    stop: Callable[[], bool] | None = None,
    lock: Lease | OutputLock | None = None,
) -> RunManifest:
    """Score every image of the source that has no row yet, then write all rows.

    Args:
        job: The job.
        progress: Called with (images done, images found) after every batch.
        stop: Called before the first batch, where its result is ignored, and after every batch.
            Stop if it returns True; the run can be resumed.
        lock: Exclusive right to write to the output. By default the output is locked when there is
            work to do.

    Raises:
        ForeignFile: The output holds something that this program did not write.
        AlreadyRunning: Another run is writing there.
        Interrupted: The run was stopped. Running the same job again resumes it.
        CxrError: The run as a whole cannot continue. A single bad file never raises.
    """
    with OutputLock(job.own_output, stop) as own_lock:
        return _run_score_job(job, progress, stop, lock or own_lock)


def _run_score_job(
    job: ScoreJob,
    progress: ProgressCallback | None,
    stop: Callable[[], bool] | None,
    lock: Lease | OutputLock,
) -> RunManifest:
    timer = _StageTimer()
    bind_fields(run=format_start_time(timer.started), shard=str(job.shard or ""))
    plan = plan_run(job)
    timer.end_stage("list")
    finished = find_finished_run(job, plan)
    if finished:
        if find_checkpoint_files(plan.output):
            lock.check()
            plan.checkpoint.clear()
        log_event("nothing_new", found=finished.found, run_id=finished.run_id)
        return finished
    for output, unrecorded in plan.outputs:
        claim_run(output, unrecorded)
    lock.check()
    plan = refresh_plan(job, plan)  # another run may have just finished
    plan = replace(plan, report_images=_choose_report_images(job, plan))
    run = _score_images(job, plan, timer, progress, stop, suspicious=lock.inherited)
    output = plan.output.with_guard(lock.check)
    load_first_model = partial(load_if_unchanged, job.models[0], job.provider, job.threads)
    report_images = (
        ReportImageSource(plan.report_images, load_first_model) if plan.report_images else None
    )
    manifest = commit_run(output, run, report_images)
    plan.checkpoint.clear()
    return manifest


def _choose_report_images(job: ScoreJob, plan: RunPlan) -> ReportImages | None:
    """Create the collector of report images; None for a shard. Ray's workers keep no images."""
    if job.shard:
        return None
    to_decode = len(plan.source.refs) - len(plan.rows)
    return ReportImages(plan.source, to_decode if job.engine == "local" else 0)


def _score_images(
    job: ScoreJob,
    plan: RunPlan,
    timer: _StageTimer,
    progress: ProgressCallback | None,
    stop: Callable[[], bool] | None,
    *,
    suspicious: bool,
) -> ScoredRun:
    """Score the images that have no row yet.

    The models are freed on return, before the tables of all rows need memory.
    """
    classifiers = load_models(job, plan.models)
    engine_job = _make_engine_job(job, plan, classifiers)
    if suspicious:
        engine_job = replace(engine_job, suspects=_find_suspects(job, engine_job))
    timer.end_stage("start")
    log_event(
        "run_started",
        found=len(plan.source.refs),
        reused=len(plan.rows),
        models=[c.card.name for c in classifiers],
        provider=classifiers[0].provider,
        engine=job.engine,
        threads=engine_job.threads,
        seconds=timer.seconds,
    )
    rows = list(plan.rows)
    if stop:
        stop()  # marks that a batch starts; the result counts only after it
    with closing(_iter_checkpointed(job, plan, engine_job)) as batches:
        for batch in batches:
            rows += batch
            _report_progress(len(rows), len(plan.source.refs), progress, stop)
    _check_one_row_per_image(plan.source, rows)
    if plan.source.readers:
        rows = _retry_unreadable(job, plan, engine_job, rows)
    timer.end_stage("score")
    models = [ModelUsed(c.path.name, c.sha256, c.card) for c in classifiers]
    return ScoredRun(
        mark_duplicates(rows),
        models,
        _make_facts(job, plan, engine_job, timer),
        job.core_hour_price,
    )


def _make_engine_job(job: ScoreJob, plan: RunPlan, classifiers: list[Classifier]) -> EngineJob:
    """Make the engine's job from the images that have no row yet."""
    done_keys = {row.image for row in plan.rows}
    return EngineJob(
        source=plan.source,
        refs=[ref for ref in plan.source.refs if ref.key not in done_keys],
        labels=plan.labels,
        classifiers=classifiers,
        known={
            r.sha256: r for r in plan.earlier_rows.values() if r.sha256 and r.status != "failed"
        },
        threads=job.threads or (available_cores() if job.engine == "local" else 1),
        batch_size=job.batch_size,
        keep_atypical=job.keep_atypical,
        identifiers=job.identifiers,
        report_images=plan.report_images if job.engine == "local" else None,
    )


def _find_suspects(job: ScoreJob, engine_job: EngineJob) -> frozenset[str]:
    """Return the keys of images that the previous run may have been decoding when it was killed.

    One of them may have killed it. In a process of its own it cannot do so again.
    """
    in_progress = (PREFETCH_BATCHES + engine_job.threads + 1) * engine_job.batch_size
    refs = engine_job.refs[:in_progress] if job.engine == "local" else engine_job.refs
    return frozenset(ref.key for ref in refs)


def _iter_checkpointed(
    job: ScoreJob, plan: RunPlan, engine_job: EngineJob
) -> Generator[list[Score]]:
    """Yield the engine's batches of rows, each after it is in the checkpoint."""
    with closing(ENGINES[job.engine](engine_job)) as batches:
        for batch in batches:
            plan.checkpoint.add(batch)
            yield batch


def _retry_unreadable(
    job: ScoreJob, plan: RunPlan, engine_job: EngineJob, rows: list[Score]
) -> list[Score]:
    """Try unreadable remote images once more, and return all rows.

    A short outage is over by now, and its images need not wait for the next run.
    """
    unreadable = {row.image for row in rows if row.reason == Unreadable.code}
    if not unreadable:
        return rows
    engine_job = replace(engine_job, refs=[ref for ref in engine_job.refs if ref.key in unreadable])
    retried = {
        row.image: row for batch in _iter_checkpointed(job, plan, engine_job) for row in batch
    }
    return [retried.get(row.image, row) for row in rows]


def _make_facts(
    job: ScoreJob, plan: RunPlan, engine_job: EngineJob, timer: _StageTimer
) -> RunFacts:
    """Collect the facts of a run whose images are all scored."""
    return RunFacts(
        config_hash=plan.config_hash,
        started=timer.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        source=plan.source.url,
        synthetic=plan.source.synthetic,
        listed=plan.source.listed,
        hidden=plan.source.hidden,
        labels=redact_url(job.labels),
        provider=engine_job.classifiers[0].provider,
        batch_size=engine_job.batch_size,
        threads=engine_job.threads,
        reused=len(plan.rows),
        shard=str(job.shard or ""),
        engine=job.engine,
        gallery=job.gallery,
        selected=plan.selected,
        identifiers=job.identifiers.effective_mode,
        seconds=timer.seconds,
        worker_seconds=engine_job.usage.worker_seconds,
        retries=count_retries() - timer.retries_before,
        bytes_read=engine_job.usage.bytes_read,
        peak_memory_bytes=engine_job.usage.peak_memory_bytes,
        core_seconds=engine_job.usage.cores * sum(timer.seconds.values()),
        images_per_second=round(len(engine_job.refs) / max(timer.seconds["score"], 1e-3), 1),
        versions={"onnxruntime": ort.__version__}
        | {name: version(name) for name in ("numpy", "pillow", "pydicom")},
    )


def _report_progress(
    done: int, found: int, progress: ProgressCallback | None, stop: Callable[[], bool] | None
) -> None:
    if progress:
        progress(done, found)
    if stop and stop() and done < found:
        raise Interrupted(
            f"Interrupted: {done} of {found} images are done.",
            "Run the same command again to resume.",
        )


class _StageTimer:
    """Seconds by stage, and the number of storage retries before the first stage."""

    def __init__(self) -> None:
        self.retries_before = count_retries()
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end_stage(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._since
        self._since = now


def load_models(job: ScoreJob, hashes: Sequence[str] = ()) -> list[Classifier]:
    """Load the job's models, each with one thread, since the engine's threads run them in parallel.

    Args:
        job: The job.
        hashes: Expected SHA-256 of each file; by default any file is accepted.

    Raises:
        UsageError: Two models have the same name.
        ModelFileError: A model file is invalid, or was replaced in the meantime.
        ProviderUnavailable: The requested provider cannot run here.
    """
    classifiers = [
        Classifier.load(name, job.provider, 1, job.batch_size, sha256)
        for name, sha256 in zip_longest(job.models, hashes)
    ]
    names = Counter(c.card.name for c in classifiers)
    duplicates = [name for name, n in names.items() if n > 1]
    if duplicates:
        raise UsageError(
            f"Expected models with different names, found two named {duplicates[0]}.",
            "Leave one of them out: both would write the same columns.",
        )
    return classifiers


def _check_one_row_per_image(source: Source, rows: list[Score]) -> None:
    """Check that each file found has exactly one row."""
    found = {ref.key for ref in source.refs}
    if len(rows) != len(found) or {row.image for row in rows} != found:
        raise OutputError(
            f"Expected one row for each of {len(found)} files, found {len(rows)} rows for "
            f"{len({row.image for row in rows})} files.",
            "Run the same command again, and report this defect.",
        )
