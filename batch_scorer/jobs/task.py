"""One task of a scheduled run: join the run, score shards, and as the last task finalize it.

Nothing here prints or parses a command line. A task may be killed at any point and started again:
it then does the remaining work.
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
    """Specification of one task of a scheduled run.

    ``score`` is the scoring job; its output is the output of all runs, and it has no shard.
    ``tasks`` is the number of shards; ``shard`` is this task's own, None to claim free shards one
    after another. ``execution`` is the platform's name for the start that all tasks belong to.
    ``rescore`` reuses no rows of finished runs. ``finish`` lets the last task merge, draw the
    report by ``report_options`` (None: no report) and notify the addresses in ``notify``. A lease
    is valid for ``lease_s`` seconds without renewal.
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
    """Join the open run or open one, do this task's part, and finalize the run as the last task.

    Args:
        job: The task.
        progress: Called with (images done, images found) after every batch.
        stop: Called after every batch and while waiting. Stop if it returns True; the task can be
            resumed.

    Raises:
        AlreadyRunning: Another task does the same work.
        Interrupted: The task was stopped. Running it again resumes it.
        CxrError: The task cannot continue.
    """
    check_addresses(job.notify)
    output = open_output(job.score.output)
    sleep = partial(sleep_interruptibly, stop)
    run = join_scheduled_run(output, _make_run_spec(job, output), job.lease_s, sleep)
    bind_fields(night=run.run_date)
    if manifest := run.read_final_manifest():
        return make_outcome(run, manifest=manifest, already_finished=True)
    task = _JoinedTask(job, run, sleep, progress, stop)
    task_manifests = tuple(task.score_shards())
    missing_shards = tuple(run.list_missing_shards())
    if missing_shards or not job.finish:
        return make_outcome(run, task_manifests=task_manifests, missing_shards=missing_shards)
    load_first_model = partial(
        load_if_unchanged, job.score.models[0], job.score.provider, job.score.threads
    )
    options = FinalizeOptions(
        job.score.output,
        job.report_options,
        job.lease_s,
        load_first_model,
        sleep,
        job.notify,
        job.score.access,
    )
    try:
        finalize_lease = acquire_finalize_lease(run, options)
    except AlreadyRunning:  # this task's own shard is done
        return make_outcome(run, task_manifests=task_manifests)
    with finalize_lease as lease:
        outcome = finalize_run(run, options, lease)
    notify_outcome(outcome, options)
    return replace(outcome, task_manifests=task_manifests)


@dataclass(frozen=True)
class _JoinedTask:
    """A task and the scheduled run that it has joined."""

    job: TaskSpec
    run: ScheduledRun
    sleep: Callable[[float], None]
    progress: ProgressCallback | None
    stop: Callable[[], bool] | None

    def score_shards(self) -> Iterator[RunManifest]:
        """Score this task's shard, or every shard that it can claim."""
        if self.job.shard is None:
            yield from self._score_free_shards()
            return
        name = _format_lease_name(self.job.shard)
        with acquire_lease(self.run.run_output, name, self.job.lease_s, self.sleep) as lease:
            yield self._score_shard(self.job.shard, lease)

    def _score_free_shards(self) -> Iterator[RunManifest]:
        """Score free shards one after another, until each is finished or held by a live task."""
        watchers: dict[Shard, LeaseWatcher] = {}
        alive_shards: set[Shard] = set()
        while True:
            lease: Lease | None = None
            missing_shards = self.run.list_missing_shards()
            for shard in missing_shards:
                name = _format_lease_name(shard)
                watcher = watchers.setdefault(shard, LeaseWatcher(self.run.run_output, name))
                state = watcher.poll()
                if state is LeaseState.FREE:
                    lease = try_acquire_lease(self.run.run_output, name, watcher, self.job.lease_s)
                if lease:
                    break
                if state is not LeaseState.SILENT:
                    alive_shards.add(shard)
            if lease:
                with lease:
                    yield self._score_shard(shard, lease)
            elif alive_shards.issuperset(missing_shards):
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
        """Yield the outputs with rows that this task can reuse."""
        if not self.job.rescore:
            yield latest.find_newest_output(self.run.output)
        for run in reversed(find_abandoned_runs(self.run)):
            if run.spec.rescore == self.job.rescore:
                same_split = run.spec.tasks == self.run.spec.tasks
                shards = [shard] if same_split else run.shards
                yield from (run.run_output.subfolder(other.folder) for other in shards)


def _format_lease_name(shard: Shard) -> str:
    return f"{shard.number}-of-{shard.count}"


def _make_run_spec(job: TaskSpec, output: Output) -> RunSpec:
    """Check the task before a run is opened, and return the spec of its run."""
    score = job.score
    is_list = is_image_list(score.images)
    source = open_source(score.images, score.limit, score.access) if is_list else None
    check_no_overlap(score.images, output, source)
    spec = RunSpec(
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
        _check_same_config(score, spec.config_hash, output)
    return spec


def _check_same_config(score: ScoreJob, config_hash: str, output: Output) -> None:
    """Refuse to mix scores of different models or options in one output.

    Raises:
        ModelFileError: The rows in latest/ are from other models.
        OutputError: They are from the same models with other options.
    """
    newest = latest.read_newest_manifest(output)
    if newest is None or newest.config_hash == config_hash:
        return
    paths = [find_model_file(name) for name in score.models]
    requested = [(path.stem, hash_model_file(path)) for path in paths]
    existing = [(model.name, model.sha256) for model in newest.models]
    url = f"{output.url}/{latest.LATEST_FOLDER}"
    hint = "Add --rescore to score every image again; earlier runs are kept."
    if [sha256 for _, sha256 in requested] != [sha256 for _, sha256 in existing]:
        raise ModelFileError(
            f"Expected the models of the rows in {url}, {_format_models(existing)}; found "
            f"{_format_models(requested)}.",
            hint,
        )
    raise OutputError(
        f"Expected the options and decoder version of the rows in {url}, found other values of "
        "--keep-atypical, --identifiers, its key or the decoder version.",
        hint,
    )


def _format_models(models: list[tuple[str, str]]) -> str:
    return " and ".join(f"{name} {sha256[:12]}" for name, sha256 in models)
