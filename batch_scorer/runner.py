"""score_batch(job): the one loop. source -> decode -> classify -> record.

What was settled before is taken over; the rest goes through an engine, batch by batch, each batch
kept in the journal before the next begins; at the end all rows are put in place at once. Nothing
here prints or parses a command line: progress goes to a callback, the outcome is a ``RunManifest``.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer import ledger
from batch_scorer.access import Access
from batch_scorer.addresses import scrub_url
from batch_scorer.apart import check_apart
from batch_scorer.claim import check_run, claim_run
from batch_scorer.classifier import Classifier, find_model, hash_model, load_used
from batch_scorer.commit import commit_run, name_copies, name_run
from batch_scorer.decoding import DECODE_VERSION
from batch_scorer.errors import DecoderKilled, Interrupted, LedgerError, Unreadable, UsageError
from batch_scorer.identifiers import Identifiers
from batch_scorer.journal import FOLDER as JOURNAL_FOLDER
from batch_scorer.journal import Journal, find_own
from batch_scorer.lease import OutputLock
from batch_scorer.log import bind, log_event
from batch_scorer.onnx_runtime import ort
from batch_scorer.output import open_output
from batch_scorer.pipeline import PREFETCH_BATCHES, Work, score_locally
from batch_scorer.process import available_cores
from batch_scorer.records import Gallery, ModelUsed, patient_of
from batch_scorer.source import open_source, read_labels
from batch_scorer.storage import retries
from batch_scorer.thumbnails import ReportImages

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from batch_scorer.lease import Lease
    from batch_scorer.output import Output, Record
    from batch_scorer.records import Heatmaps, RunManifest, Score
    from batch_scorer.shards import Shard
    from batch_scorer.source import Source
    from batch_scorer.spending import Tariff

    Progress = Callable[[int, int], None]


def _score_with_ray(work: Work) -> Generator[list[Score]]:
    from batch_scorer.ray_engine import score_with_ray

    return score_with_ray(work)


ENGINES: dict[str, Callable[[Work], Generator[list[Score]]]] = {
    "local": score_locally,
    "ray": _score_with_ray,
}


BATCH_SIZE = 16
"""Larger ones are no faster on a CPU, and take more memory and longer to end."""


@dataclass(frozen=True)
class ScoreJob:
    """What to score, with which models, and where the results go.

    ``images`` and ``output`` are paths or URLs. ``labels`` is "folders", "none" or a CSV file;
    ``provider`` is "auto", "cpu" or "cuda"; ``threads`` is every core that this process may use
    unless given. ``keep_atypical`` scores also what looks like no film that the first model knows.
    ``engine`` is one of ENGINES; with "ray", each worker has ``threads``, one unless given.
    ``shard`` takes one share of the films; its results lie in a folder of their own below
    ``output``, for `merge_shards`. ``identifiers`` says how patient and study are told.
    ``heatmaps`` says which films of the report get an evidence map: "flagged", "all" or "none";
    ``review_minutes`` is the time for looking at the films it shows. ``tariff`` is what a core
    costs, where the price of the run is to be told. ``earlier`` are other places with rows by the
    same method, finished or not, that this job takes over too. ``access`` says what a list and web
    addresses may lead to.
    """

    images: str
    output: str
    models: tuple[str, ...]
    labels: str = "folders"
    provider: str = "auto"
    batch_size: int = BATCH_SIZE
    threads: int | None = None
    limit: int | None = None
    keep_atypical: bool = False
    shard: Shard | None = None
    engine: str = "local"
    identifiers: Identifiers = field(default_factory=Identifiers)
    heatmaps: Heatmaps = "flagged"
    review_minutes: int | None = None
    tariff: Tariff | None = None
    earlier: tuple[Output, ...] = ()
    access: Access = field(default_factory=Access)

    @property
    def gallery(self) -> Gallery:
        """Which films the report shows, and which of them with an evidence map."""
        return Gallery(self.heatmaps, self.review_minutes)

    @property
    def place(self) -> Output:
        """Where this job's own results lie."""
        output = open_output(self.output)
        return output.below(self.shard.folder) if self.shard else output


def score_batch(
    job: ScoreJob,
    progress: Progress | None = None,
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
        return _score_batch(job, progress, stop, held or own)


def _score_batch(
    job: ScoreJob,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
    held: Lease | OutputLock,
) -> RunManifest:
    clock = _Clock()
    bind(run=name_run(clock.started), shard=str(job.shard or ""))
    tried_before = retries()
    plan = _plan(job)
    clock.lap("list")
    finished = _finished(job, plan)
    if finished:
        if find_own(plan.output):
            held.check()
            plan.journal.clear()
        log_event("nothing_new", found=finished.found, run_id=finished.run_id)
        return finished
    for output, old in plan.outputs:
        claim_run(output, old)
    held.check()
    plan = _look_again(job, plan)  # another run may have ended just before
    plan = replace(plan, report_images=_images_to_show(job, plan))
    rows, models, facts = _score(job, plan, clock, progress, stop, suspicious=held.inherited)
    films = plan.report_images
    facts["retries"] = retries() - tried_before
    first = partial(load_used, job.models[0], job.provider, job.threads)
    output = plan.output.guarded(held.check)
    manifest = commit_run(output, films, name_copies(rows), models, first, job.tariff, **facts)
    plan.journal.clear()
    return manifest


def _images_to_show(job: ScoreJob, plan: _Plan) -> ReportImages | None:
    """The images of the report; a shard has none, and what Ray decodes is not kept here."""
    if job.shard:
        return None
    to_decode = len(plan.source.refs) - len(plan.rows)
    return ReportImages(plan.source, to_decode if job.engine == "local" else 0)


def _score(
    job: ScoreJob,
    plan: _Plan,
    clock: _Clock,
    progress: Progress | None,
    stop: Callable[[], bool] | None,
    *,
    suspicious: bool,
) -> tuple[list[Score], list[ModelUsed], dict[str, Any]]:
    """Let the engine score what has no row yet: all rows, the models, and facts for run.json.

    The models themselves are gone when it returns, before the tables of all rows need memory.
    """
    classifiers = load_models(job, plan.models)
    have = {row.image for row in plan.rows}
    work = Work(
        source=plan.source,
        refs=[ref for ref in plan.source.refs if ref.key not in have],
        labels=plan.labels,
        classifiers=classifiers,
        known={r.sha256: r for r in plan.settled.values() if r.sha256 and r.status != "failed"},
        threads=job.threads or (available_cores() if job.engine == "local" else 1),
        batch_size=job.batch_size,
        keep_atypical=job.keep_atypical,
        identifiers=job.identifiers,
        report_images=plan.report_images if job.engine == "local" else None,
    )
    if suspicious:
        work = replace(work, suspects=_find_suspects(job, work))
    clock.lap("start")
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
    with closing(_journaled(job, plan, work)) as batches:
        for batch in batches:
            rows += batch
            _tell(len(rows), len(plan.source.refs), progress, stop)
    _check_closed(plan.source, rows)
    if plan.source.readers:
        rows = _try_again(job, plan, work, rows)
    clock.lap("score")
    models = [ModelUsed(c.path.name, c.sha256, c.card) for c in classifiers]
    return rows, models, _facts(job, plan, work, clock)


def _find_suspects(job: ScoreJob, work: Work) -> frozenset[str]:
    """The images that the run before this one may have had in hand when it was killed.

    One of them may have killed it: in a process of its own it cannot do so again.
    """
    in_hand = (PREFETCH_BATCHES + work.threads + 1) * work.batch_size
    refs = work.refs[:in_hand] if job.engine == "local" else work.refs
    return frozenset(ref.key for ref in refs)


def _journaled(job: ScoreJob, plan: _Plan, work: Work) -> Generator[list[Score]]:
    """The engine's batches of rows, each in the journal before it is given."""
    with closing(ENGINES[job.engine](work)) as batches:
        for batch in batches:
            plan.journal.add(batch)
            yield batch


def _try_again(job: ScoreJob, plan: _Plan, work: Work, rows: list[Score]) -> list[Score]:
    """The rows, after one more try of films elsewhere that could not be read.

    An outage of seconds is over by now, and its films need not wait for the next run.
    """
    lost = {row.image for row in rows if row.reason == Unreadable.code}
    if not lost:
        return rows
    work = replace(work, refs=[ref for ref in work.refs if ref.key in lost])
    again = {row.image: row for batch in _journaled(job, plan, work) for row in batch}
    return [again.get(row.image, row) for row in rows]


@dataclass(frozen=True)
class _Plan:
    """What is there to do, and what is done: ``rows`` of films that are still as they were.

    ``outputs`` are to be claimed, each with what an older version left there; the last one is the
    job's own. ``models`` are the hashes of the files that ``method`` stands for.
    """

    outputs: list[tuple[Output, Record]]
    source: Source
    labels: dict[str, str]
    taken: int
    models: list[str]
    method: str
    journal: Journal
    settled: dict[str, Score]
    rows: list[Score]
    report_images: ReportImages | None = None

    @property
    def output(self) -> Output:
        """Where the job's own results go."""
        return self.outputs[-1][0]


def _plan(job: ScoreJob) -> _Plan:
    output = job.place
    source = open_source(job.images, job.limit, job.access)
    whole = open_output(job.output)
    check_apart(job.images, whole, source)
    outputs = [(place, check_run(place)) for place in ([whole, output] if job.shard else [output])]
    labels = read_labels(job.labels, source)
    taken = len(source.refs)
    if job.shard:
        source = replace(source, refs=tuple(r for r in source.refs if job.shard.holds(r.key)))
    models = _hash_models(job)
    method = _name_method(job, models)
    plan = _Plan(outputs, source, labels, taken, models, method, Journal(output, method), {}, [])
    return _look_again(job, plan)


def _look_again(job: ScoreJob, plan: _Plan) -> _Plan:
    """The plan with the rows that are settled by now."""
    found = _settled((*job.earlier, plan.output), plan.method, len(job.models))
    settled = {key: _hide_patient(row, job.identifiers) for key, row in found.items()}
    return replace(plan, settled=settled, rows=_taken_over(plan.source, plan.labels, settled))


def _facts(job: ScoreJob, plan: _Plan, work: Work, clock: _Clock) -> dict[str, Any]:
    """What run.json says beside models, rows and counts."""
    return {
        "method": plan.method,
        "started": clock.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": plan.source.url,
        "synthetic": plan.source.synthetic,
        "listed": plan.source.listed,
        "hidden": plan.source.hidden,
        "labels": scrub_url(job.labels),
        "provider": work.classifiers[0].provider,
        "batch_size": work.batch_size,
        "threads": work.threads,
        "reused": len(plan.rows),
        "shard": str(job.shard or ""),
        "engine": job.engine,
        "gallery": job.gallery,
        "taken": plan.taken,
        "identifiers": job.identifiers.effective,
        "seconds": clock.seconds,
        "worker_seconds": {step: round(s, 3) for step, s in work.meter.worker_seconds.items()},
        "bytes_read": work.meter.bytes_read,
        "peak_memory_bytes": work.meter.peak_memory_bytes,
        "core_seconds": work.meter.cores * sum(clock.seconds.values()),
        "images_per_second": round(len(work.refs) / max(clock.seconds["score"], 1e-3), 1),
        "versions": {"onnxruntime": ort.__version__}
        | {name: version(name) for name in ("numpy", "pillow", "pydicom")},
    }


def _tell(
    done: int, found: int, progress: Progress | None, stop: Callable[[], bool] | None
) -> None:
    if progress:
        progress(done, found)
    if stop and stop() and done < found:
        raise Interrupted(
            f"Interrupted: {done} of {found} films are done.",
            "Run the same command again to go on.",
        )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
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


def name_method(job: ScoreJob) -> str:
    """A short hash of all that decides an answer apart from the film."""
    return _name_method(job, _hash_models(job))


def _hash_models(job: ScoreJob) -> list[str]:
    return [hash_model(find_model(model)) for model in job.models]


def _name_method(job: ScoreJob, models: list[str]) -> str:
    deciding = {
        "models": models,
        "decode_version": DECODE_VERSION,
        "keep_atypical": job.keep_atypical,
        "identifiers": job.identifiers.fingerprint,
    }
    return hashlib.sha256(msgspec.json.encode(deciding, order="sorted")).hexdigest()[:16]


def _settled(places: Sequence[Output], method: str, models: int) -> dict[str, Score]:
    """Rows of earlier runs by the same method, by image; a later place's before an earlier one's.

    What failed is tried again, but for an image that killed its decoder twice.
    """
    rows = [row for place in places for row in _rows_in(place, method, models)]
    kept = [row for row in rows if row.status != "failed" or row.reason == DecoderKilled.code]
    return {row.image: row for row in kept}


def _rows_in(place: Output, method: str, models: int) -> list[Score]:
    """The rows of a run by this method, finished or under way.

    Raises:
        LedgerError: They cannot be read, or are not by so many models.
    """
    rows = [*ledger.read_rows(place, method), *Journal(place, method).read()]
    if all(row.is_whole(models) for row in rows):
        return rows
    raise LedgerError(
        f"Expected rows with {models} answers for each scored film in {place.url}, found others.",
        f"Remove {ledger.PARQUET_FILE} and the folder {JOURNAL_FOLDER} to score all films anew.",
    )


def _hide_patient(row: Score, identifiers: Identifiers) -> Score:
    """Treat the patient number of a file's name as it is asked for: older versions left it."""
    if row.patient and row.patient == patient_of(row.image):
        return msgspec.structs.replace(row, patient=identifiers.apply_to_name(row.patient))
    return row


def _taken_over(source: Source, labels: dict[str, str], settled: dict[str, Score]) -> list[Score]:
    """The settled rows of the films that are still the same, as their stamps say."""
    rows = []
    for ref in source.refs:
        row = settled.get(ref.key)
        if row and ref.stamp and row.stamp == ref.stamp:
            label = labels.get(ref.key, "")
            rows.append(msgspec.structs.replace(row, label=label))
    return rows


def _finished(job: ScoreJob, plan: _Plan) -> RunManifest | None:
    """The finished run that this job would only repeat, if there is one."""
    source, rows = plan.source, plan.rows
    old = ledger.read_manifest(plan.output) if len(rows) == len(source.refs) else None
    if old is None:
        return None
    asked = (
        plan.method,
        source.url,
        scrub_url(job.labels),
        source.listed,
        source.hidden,
        len(rows),
    )
    if asked != (old.method, old.source, old.labels, old.listed, old.hidden, old.found):
        return None
    if job.gallery != msgspec.structs.replace(old.gallery, maps={}, no_maps=""):
        return None
    try:
        _, old_rows = ledger.read_run(plan.output)
    except LedgerError:  # its rows are not those that it wrote: they are put in place again
        return None
    return old if old_rows == name_copies(rows) else None


def _check_closed(source: Source, rows: list[Score]) -> None:
    """Each file found has one row, no other has."""
    found = {ref.key for ref in source.refs}
    if len(rows) != len(found) or {row.image for row in rows} != found:
        raise LedgerError(
            f"{len(found)} files were found, {len(rows)} rows were written for "
            f"{len({row.image for row in rows})} of them."
        )
