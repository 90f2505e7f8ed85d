"""One task's part of a night: join it, score a share, and as the last one merge, report, publish.

Nothing here prints or parses a command line. A task may be killed at any point and started again:
it does then what is not done yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from batch_scorer.engine.run_plan import config_hash
from batch_scorer.engine.runner import run_score_job
from batch_scorer.errors import AlreadyRunning, ModelFileError, OutputError
from batch_scorer.jobs import latest
from batch_scorer.jobs.finalize import (
    FinalizeOptions,
    acquire_finalize_lease,
    finalize_run,
    make_outcome,
    notify_outcome,
)
from batch_scorer.jobs.notify import check_addresses
from batch_scorer.jobs.schedule import (
    RunSpec,
    ScheduledRun,
    claim_job_output,
    find_abandoned_runs,
    join_scheduled_run,
)
from batch_scorer.model.classifier import find_model_file, hash_model_file, load_if_unchanged
from batch_scorer.report.content.report_options import DEFAULT_OPTIONS, ReportOptions
from batch_scorer.storage.image_list import is_image_list
from batch_scorer.storage.lease import (
    DEFAULT_TERM_S,
    Lease,
    LeaseState,
    LeaseWatcher,
    acquire_lease,
    poll_interval_s,
    sleep_interruptibly,
    try_acquire_lease,
)
from batch_scorer.storage.output import open_output
from batch_scorer.storage.overlap import check_no_overlap
from batch_scorer.storage.source import check_source, open_source
from batch_scorer.system.log import bind_fields
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_scorer.engine.runner import ProgressCallback
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.jobs.finalize import TaskOutcome
    from batch_scorer.results.schema import RunManifest
    from batch_scorer.results.shards import Shard
    from batch_scorer.storage.output import Output


@dataclass(frozen=True)
class TaskSpec:
    """What one task of a night does.

    ``score`` says what to score; its output is the place of all nights, and it has no shard.
    ``tasks`` share the films; ``shard`` is this task's share, None to claim one after another.
    ``execution`` is what the platform calls the start that all tasks belong to; ``rescore`` takes
    no row over from finished nights. ``finish`` lets the last task merge and report, as ``report_options``
    says (None: no report), and tell the addresses in ``notify``. A lease holds for ``lease_s``
    without being renewed.
    """

    score: ScoreJob
    tasks: int = 1
    shard: Shard | None = None
    execution: str = ""
    rescore: bool = False
    finish: bool = True
    report_options: ReportOptions | None = DEFAULT_OPTIONS
    lease_s: float = DEFAULT_TERM_S
    notify: tuple[str, ...] = ()


def run_task(
    job: TaskSpec, progress: ProgressCallback | None = None, stop: Callable[[], bool] | None = None
) -> TaskOutcome:
    """Do one task's part of the open night, or open one; finish it where this task is the last.

    Args:
        job: What to do.
        progress: Called with (films settled, films found) after every batch.
        stop: Asked after every batch and while waiting; where it says yes, the task ends there.

    Raises:
        Occupied: Another task is at this work.
        Interrupted: It was stopped. The same task goes on from there.
        CxrError: The task cannot go on.
    """
    check_addresses(job.notify)
    output = open_output(job.score.output)
    pause = partial(sleep_interruptibly, stop)
    night = join_scheduled_run(output, _make_run_spec(job, output), job.lease_s, pause)
    bind_fields(night=night.name)
    if manifest := night.closed():
        return make_outcome(night, manifest=manifest, already_finished=True)
    task = _JoinedTask(job, night, pause, progress, stop)
    own = tuple(task.score_shards())
    missing = tuple(night.missing())
    if missing or not job.finish:
        return make_outcome(night, own=own, missing=missing)
    first = partial(load_if_unchanged, job.score.models[0], job.score.provider, job.score.threads)
    ending = FinalizeOptions(
        job.score.output,
        job.report_options,
        job.lease_s,
        first,
        pause,
        job.notify,
        job.score.access,
    )
    try:
        held = acquire_finalize_lease(night, ending)
    except AlreadyRunning:  # this task's own share is done
        return make_outcome(night, own=own)
    with held as lease:
        outcome = finalize_run(night, ending, lease)
    notify_outcome(outcome, ending)
    return replace(outcome, own=own)


@dataclass(frozen=True)
class _JoinedTask:
    """A task of a night that it has joined."""

    job: TaskSpec
    run: ScheduledRun
    sleep: Callable[[float], None]
    progress: ProgressCallback | None
    stop: Callable[[], bool] | None

    def score_shards(self) -> Iterator[RunManifest]:
        """Score this task's share, or those that it can claim."""
        if self.job.shard is None:
            yield from self._claim()
            return
        name = _format_lease_name(self.job.shard)
        with acquire_lease(self.run.place, name, self.job.lease_s, self.sleep) as lease:
            yield self._score_shard(self.job.shard, lease)

    def _claim(self) -> Iterator[RunManifest]:
        """Score one free share after another, until each is finished or in good hands."""
        watches: dict[Shard, LeaseWatcher] = {}
        alive: set[Shard] = set()
        while True:
            free: Lease | None = None
            missing = self.run.missing()
            for shard in missing:
                name = _format_lease_name(shard)
                watch = watches.setdefault(shard, LeaseWatcher(self.run.place, name))
                sight = watch.poll()
                if sight is LeaseState.FREE:
                    free = try_acquire_lease(self.run.place, name, watch, self.job.lease_s)
                if free:
                    break
                if sight is not LeaseState.SILENT:
                    alive.add(shard)
            if free:
                with free as lease:
                    yield self._score_shard(shard, lease)
            elif alive.issuperset(missing):
                return
            else:
                self.sleep(poll_interval_s(self.job.lease_s))

    def _score_shard(self, shard: Shard, lease: Lease) -> RunManifest:
        score = replace(
            self.job.score,
            output=f"{self.job.score.output.rstrip('/')}/{self.run.folder}",
            shard=shard,
            earlier_outputs=tuple(self._find_earlier_outputs(shard)),
        )
        return run_score_job(score, self.progress, partial(self._should_stop, lease), lease)

    def _should_stop(self, lease: Lease) -> bool:
        lease.raise_if_lost()
        return self.stop is not None and self.stop()

    def _find_earlier_outputs(self, shard: Shard) -> Iterator[Output]:
        """Where rows of films lie that need not be scored again."""
        if not self.job.rescore:
            yield latest.find_newest_output(self.run.output)
        for night in reversed(find_abandoned_runs(self.run)):
            if night.spec.rescore == self.job.rescore:
                alike = night.spec.tasks == self.run.spec.tasks
                shards = [shard] if alike else night.shards
                yield from (night.place.subfolder(other.folder) for other in shards)


def _format_lease_name(shard: Shard) -> str:
    return f"{shard.number}-of-{shard.count}"


def _make_run_spec(job: TaskSpec, output: Output) -> RunSpec:
    """Find what is wrong before a night is opened; say what the night is to do."""
    score = job.score
    listed = is_image_list(score.images)
    source = open_source(score.images, score.limit, score.access) if listed else None
    check_no_overlap(score.images, output, source)
    plan = RunSpec(
        source=redact_url(score.images),
        config_hash=config_hash(score),
        tasks=job.tasks,
        labels=redact_url(score.labels),
        limit=score.limit,
        gallery=score.gallery,
        rescore=job.rescore,
        execution=job.execution,
    )
    check_source(score.images, score.access)
    claim_job_output(output)
    output.check_exclusive_create()
    if not job.rescore:
        _check_same_config(score, plan.config_hash, output)
    return plan


def _check_same_config(score: ScoreJob, config_hash: str, output: Output) -> None:
    """Refuse to mix the answers of two models in one place without a word.

    Raises:
        ModelFileError: The rows in latest/ are by other models.
        LedgerError: They are by the same models with other options.
    """
    newest = latest.read_newest_manifest(output)
    if newest is None or newest.config_hash == config_hash:
        return
    paths = [find_model_file(name) for name in score.models]
    given = [(path.stem, hash_model_file(path)) for path in paths]
    before = [(model.name, model.sha256) for model in newest.models]
    place = f"{output.url}/{latest.LATEST_FOLDER}"
    hint = "Add --rescore to score every film anew; the nights of before stay."
    if [sha256 for _, sha256 in given] != [sha256 for _, sha256 in before]:
        raise ModelFileError(
            f"The rows in {place} are by {_format_models(before)}, this start is with "
            f"{_format_models(given)}.",
            hint,
        )
    raise OutputError(
        f"The rows in {place} are by the same models with other options (--keep-atypical, "
        "--identifiers and its key) or another version of the decoder.",
        hint,
    )


def _format_models(models: list[tuple[str, str]]) -> str:
    return " and ".join(f"{name} {sha256[:12]}" for name, sha256 in models)
