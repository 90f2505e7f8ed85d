"""One task's part of a night: join it, score a share, and as the last one merge, report, publish.

Nothing here prints or parses a command line. A task may be killed at any point and started again:
it does then what is not done yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from batch_scorer.engine.run_plan import name_method
from batch_scorer.engine.runner import score_batch
from batch_scorer.errors import LedgerError, ModelFileError, Occupied
from batch_scorer.jobs import latest
from batch_scorer.jobs.finalize import Ending, end_night, hold_end, tell, tell_people
from batch_scorer.jobs.notify import check_addresses
from batch_scorer.jobs.schedule import Night, Plan, claim_nights, find_given_up, join_night
from batch_scorer.model.classifier import find_model, hash_model, load_used
from batch_scorer.report.content.report_options import AS_USUAL, Drawing
from batch_scorer.storage.image_list import is_list
from batch_scorer.storage.lease import (
    TERM_S,
    Lease,
    Sight,
    Watch,
    acquire_lease,
    pause_s,
    pause_unless,
    take_lease,
)
from batch_scorer.storage.output import open_output
from batch_scorer.storage.overlap import check_apart
from batch_scorer.storage.source import check_source, open_source
from batch_scorer.system.log import bind
from batch_scorer.system.redact import scrub_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_scorer.engine.runner import Progress
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.jobs.finalize import NightOutcome
    from batch_scorer.results.schema import RunManifest
    from batch_scorer.results.shards import Shard
    from batch_scorer.storage.output import Output


@dataclass(frozen=True)
class NightJob:
    """What one task of a night does.

    ``score`` says what to score; its output is the place of all nights, and it has no shard.
    ``tasks`` share the films; ``shard`` is this task's share, None to claim one after another.
    ``execution`` is what the platform calls the start that all tasks belong to; ``rescore`` takes
    no row over from finished nights. ``finish`` lets the last task merge and report, as ``drawing``
    says (None: no report), and tell the addresses in ``notify``. A lease holds for ``lease_s``
    without being renewed.
    """

    score: ScoreJob
    tasks: int = 1
    shard: Shard | None = None
    execution: str = ""
    rescore: bool = False
    finish: bool = True
    drawing: Drawing | None = AS_USUAL
    lease_s: float = TERM_S
    notify: tuple[str, ...] = ()


def run_night(
    job: NightJob, progress: Progress | None = None, stop: Callable[[], bool] | None = None
) -> NightOutcome:
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
    pause = partial(pause_unless, stop)
    night = join_night(output, _prepare(job, output), job.lease_s, pause)
    bind(night=night.name)
    if manifest := night.closed():
        return tell(night, manifest=manifest, again=True)
    task = _Task(job, night, pause, progress, stop)
    own = tuple(task.score_shares())
    missing = tuple(night.missing())
    if missing or not job.finish:
        return tell(night, own=own, missing=missing)
    first = partial(load_used, job.score.models[0], job.score.provider, job.score.threads)
    ending = Ending(
        job.score.output, job.drawing, job.lease_s, first, pause, job.notify, job.score.access
    )
    try:
        held = hold_end(night, ending)
    except Occupied:  # this task's own share is done
        return tell(night, own=own)
    with held as lease:
        outcome = end_night(night, ending, lease)
    tell_people(outcome, ending)
    return replace(outcome, own=own)


@dataclass(frozen=True)
class _Task:
    """A task of a night that it has joined."""

    job: NightJob
    run: Night
    pause: Callable[[float], None]
    progress: Progress | None
    stop: Callable[[], bool] | None

    def score_shares(self) -> Iterator[RunManifest]:
        """Score this task's share, or those that it can claim."""
        if self.job.shard is None:
            yield from self._claim()
            return
        name = _lease_name(self.job.shard)
        with acquire_lease(self.run.place, name, self.job.lease_s, self.pause) as lease:
            yield self._score(self.job.shard, lease)

    def _claim(self) -> Iterator[RunManifest]:
        """Score one free share after another, until each is finished or in good hands."""
        watches: dict[Shard, Watch] = {}
        alive: set[Shard] = set()
        while True:
            free: Lease | None = None
            missing = self.run.missing()
            for shard in missing:
                name = _lease_name(shard)
                watch = watches.setdefault(shard, Watch(self.run.place, name))
                sight = watch.look()
                if sight is Sight.FREE:
                    free = take_lease(self.run.place, name, watch, self.job.lease_s)
                if free:
                    break
                if sight is not Sight.SILENT:
                    alive.add(shard)
            if free:
                with free as lease:
                    yield self._score(shard, lease)
            elif alive.issuperset(missing):
                return
            else:
                self.pause(pause_s(self.job.lease_s))

    def _score(self, shard: Shard, lease: Lease) -> RunManifest:
        score = replace(
            self.job.score,
            output=f"{self.job.score.output.rstrip('/')}/{self.run.folder}",
            shard=shard,
            earlier=tuple(self._earlier(shard)),
        )
        return score_batch(score, self.progress, partial(self._stopped, lease), lease)

    def _stopped(self, lease: Lease) -> bool:
        lease.tell_loss()
        return self.stop is not None and self.stop()

    def _earlier(self, shard: Shard) -> Iterator[Output]:
        """Where rows of films lie that need not be scored again."""
        if not self.job.rescore:
            yield latest.find_place(self.run.output)
        for night in reversed(find_given_up(self.run)):
            if night.plan.rescore == self.job.rescore:
                alike = night.plan.tasks == self.run.plan.tasks
                shards = [shard] if alike else night.shards
                yield from (night.place.below(other.folder) for other in shards)


def _lease_name(shard: Shard) -> str:
    return f"{shard.number}-of-{shard.count}"


def _prepare(job: NightJob, output: Output) -> Plan:
    """Find what is wrong before a night is opened; say what the night is to do."""
    score = job.score
    listed = is_list(score.images)
    source = open_source(score.images, score.limit, score.access) if listed else None
    check_apart(score.images, output, source)
    plan = Plan(
        source=scrub_url(score.images),
        method=name_method(score),
        tasks=job.tasks,
        labels=scrub_url(score.labels),
        limit=score.limit,
        gallery=score.gallery,
        rescore=job.rescore,
        execution=job.execution,
    )
    check_source(score.images, score.access)
    claim_nights(output)
    output.prove_creation()
    if not job.rescore:
        _check_method(score, plan.method, output)
    return plan


def _check_method(score: ScoreJob, method: str, output: Output) -> None:
    """Refuse to mix the answers of two models in one place without a word.

    Raises:
        ModelFileError: The rows in latest/ are by other models.
        LedgerError: They are by the same models with other options.
    """
    newest = latest.read_latest(output)
    if newest is None or newest.method == method:
        return
    paths = [find_model(name) for name in score.models]
    given = [(path.stem, hash_model(path)) for path in paths]
    before = [(model.name, model.sha256) for model in newest.models]
    place = f"{output.url}/{latest.FOLDER}"
    hint = "Add --rescore to score every film anew; the nights of before stay."
    if [sha256 for _, sha256 in given] != [sha256 for _, sha256 in before]:
        raise ModelFileError(
            f"The rows in {place} are by {_name_models(before)}, this start is with "
            f"{_name_models(given)}.",
            hint,
        )
    raise LedgerError(
        f"The rows in {place} are by the same models with other options (--keep-atypical, "
        "--identifiers and its key) or another version of the decoder.",
        hint,
    )


def _name_models(models: list[tuple[str, str]]) -> str:
    return " and ".join(f"{name} {sha256[:12]}" for name, sha256 in models)
