"""score_batch(job): the one loop. source -> decode -> classify -> record.

What was settled before is taken over; the rest goes through an engine, batch by batch, each batch
kept in the journal before the next begins; at the end all rows are put in place at once. Nothing
here prints or parses a command line: progress goes to a callback, the outcome is a ``RunManifest``.
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


def _score_with_ray(work: EngineJob) -> Generator[list[Score]]:
    from batch_scorer.engine.ray import score_with_ray

    return score_with_ray(work)


ENGINES: dict[str, Callable[[EngineJob], Generator[list[Score]]]] = {
    "local": score_locally,
    "ray": _score_with_ray,
}


def run_score_job(
    job: ScoreJob,
    progress: ProgressCallback | None = None,
    stop: Callable[[], bool] | None = None,
    held: Lease | OutputLock | None = None,
) -> RunManifest:
    """Score every film of the source that has no row yet; put all rows in place.

    Args:
        job: What to do.
        progress: Called with (films settled, films found) after every batch.
        stop: Asked before the first batch, whatever it says, and after every batch; where it says
            yes there, the run ends, to be gone on with.
        held: What gives this process alone the right to write there; by default a lock of the
            output, taken where there is work to do.

    Raises:
        ForeignFile: The output holds something that this program did not write.
        Occupied: Another run is writing there.
        Interrupted: It was stopped. The same job goes on from there.
        CxrError: The run as a whole cannot go on. A single bad file never raises.
    """
    with OutputLock(job.place, stop) as own:
        return _run_score_job(job, progress, stop, held or own)


def _run_score_job(
    job: ScoreJob,
    progress: ProgressCallback | None,
    stop: Callable[[], bool] | None,
    held: Lease | OutputLock,
) -> RunManifest:
    clock = _StageTimer()
    bind_fields(run=format_start_time(clock.started), shard=str(job.shard or ""))
    plan = plan_run(job)
    clock.end_stage("list")
    finished = find_finished_run(job, plan)
    if finished:
        if find_checkpoint_files(plan.output):
            held.check()
            plan.checkpoint.clear()
        log_event("nothing_new", found=finished.found, run_id=finished.run_id)
        return finished
    for output, old in plan.outputs:
        claim_run(output, old)
    held.check()
    plan = refresh_plan(job, plan)  # another run may have ended just before
    plan = replace(plan, report_images=_choose_report_images(job, plan))
    run = _score_images(job, plan, clock, progress, stop, suspicious=held.inherited)
    output = plan.output.with_guard(held.check)
    first = partial(load_if_unchanged, job.models[0], job.provider, job.threads)
    pictures = ReportImageSource(plan.report_images, first) if plan.report_images else None
    manifest = commit_run(output, run, pictures)
    plan.checkpoint.clear()
    return manifest


def _choose_report_images(job: ScoreJob, plan: RunPlan) -> ReportImages | None:
    """Give the images of the report: none for a shard, and Ray's workers keep none of theirs."""
    if job.shard:
        return None
    to_decode = len(plan.source.refs) - len(plan.rows)
    return ReportImages(plan.source, to_decode if job.engine == "local" else 0)


def _score_images(
    job: ScoreJob,
    plan: RunPlan,
    clock: _StageTimer,
    progress: ProgressCallback | None,
    stop: Callable[[], bool] | None,
    *,
    suspicious: bool,
) -> ScoredRun:
    """Let the engine score what has no row yet.

    The models themselves are gone when it returns, before the tables of all rows need memory.
    """
    classifiers = load_models(job, plan.models)
    have = {row.image for row in plan.rows}
    work = EngineJob(
        source=plan.source,
        refs=[ref for ref in plan.source.refs if ref.key not in have],
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
    if suspicious:
        work = replace(work, suspects=_find_suspects(job, work))
    clock.end_stage("start")
    log_event(
        "run_started",
        found=len(plan.source.refs),
        reused=len(plan.rows),
        models=[c.card.name for c in classifiers],
        provider=classifiers[0].provider,
        engine=job.engine,
        threads=work.threads,
        seconds=clock.seconds,
    )
    rows = list(plan.rows)
    if stop:
        stop()  # from now on there is a batch to finish; the answer counts after it
    with closing(_iter_checkpointed(job, plan, work)) as batches:
        for batch in batches:
            rows += batch
            _report_progress(len(rows), len(plan.source.refs), progress, stop)
    _check_one_row_per_image(plan.source, rows)
    if plan.source.readers:
        rows = _retry_unreadable(job, plan, work, rows)
    clock.end_stage("score")
    models = [ModelUsed(c.path.name, c.sha256, c.card) for c in classifiers]
    return ScoredRun(
        mark_duplicates(rows), models, _make_facts(job, plan, work, clock), job.core_hour_price
    )


def _find_suspects(job: ScoreJob, work: EngineJob) -> frozenset[str]:
    """The images that the run before this one may have had in hand when it was killed.

    One of them may have killed it: in a process of its own it cannot do so again.
    """
    in_hand = (PREFETCH_BATCHES + work.threads + 1) * work.batch_size
    refs = work.refs[:in_hand] if job.engine == "local" else work.refs
    return frozenset(ref.key for ref in refs)


def _iter_checkpointed(job: ScoreJob, plan: RunPlan, work: EngineJob) -> Generator[list[Score]]:
    """The engine's batches of rows, each in the journal before it is given."""
    with closing(ENGINES[job.engine](work)) as batches:
        for batch in batches:
            plan.checkpoint.add(batch)
            yield batch


def _retry_unreadable(
    job: ScoreJob, plan: RunPlan, work: EngineJob, rows: list[Score]
) -> list[Score]:
    """The rows, after one more try of films elsewhere that could not be read.

    An outage of seconds is over by now, and its films need not wait for the next run.
    """
    lost = {row.image for row in rows if row.reason == Unreadable.code}
    if not lost:
        return rows
    work = replace(work, refs=[ref for ref in work.refs if ref.key in lost])
    again = {row.image: row for batch in _iter_checkpointed(job, plan, work) for row in batch}
    return [again.get(row.image, row) for row in rows]


def _make_facts(job: ScoreJob, plan: RunPlan, work: EngineJob, clock: _StageTimer) -> RunFacts:
    """The facts of a run whose images are all scored."""
    return RunFacts(
        config_hash=plan.config_hash,
        started=clock.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        source=plan.source.url,
        synthetic=plan.source.synthetic,
        listed=plan.source.listed,
        hidden=plan.source.hidden,
        labels=redact_url(job.labels),
        provider=work.classifiers[0].provider,
        batch_size=work.batch_size,
        threads=work.threads,
        reused=len(plan.rows),
        shard=str(job.shard or ""),
        engine=job.engine,
        gallery=job.gallery,
        selected=plan.selected,
        identifiers=job.identifiers.effective_mode,
        seconds=clock.seconds,
        worker_seconds=work.usage.worker_seconds,
        retries=count_retries() - clock.retries_before,
        bytes_read=work.usage.bytes_read,
        peak_memory_bytes=work.usage.peak_memory_bytes,
        core_seconds=work.usage.cores * sum(clock.seconds.values()),
        images_per_second=round(len(work.refs) / max(clock.seconds["score"], 1e-3), 1),
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
            f"Interrupted: {done} of {found} films are done.",
            "Run the same command again to go on.",
        )


class _StageTimer:
    """Seconds by stage, and the calls to storage that were made again before the first one."""

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
    """The job's models, each with one thread: the engine's threads work side by side.

    Args:
        job: Whose models.
        hashes: The SHA-256 of each file, where it must be the one that was read before.

    Raises:
        UsageError: Two of them have the same name.
        ModelFileError: One of them is not right, or was replaced meanwhile.
        ProviderUnavailable: The provider was asked for by name and cannot run here.
    """
    classifiers = [
        Classifier.load(name, job.provider, 1, job.batch_size, sha256)
        for name, sha256 in zip_longest(job.models, hashes)
    ]
    names = Counter(c.card.name for c in classifiers)
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise UsageError(f"Two models are named {twice[0]}: their columns would be mixed up.")
    return classifiers


def _check_one_row_per_image(source: Source, rows: list[Score]) -> None:
    """Each file found has one row, no other has."""
    found = {ref.key for ref in source.refs}
    if len(rows) != len(found) or {row.image for row in rows} != found:
        raise OutputError(
            f"{len(found)} files were found, {len(rows)} rows were written for "
            f"{len({row.image for row in rows})} of them."
        )
