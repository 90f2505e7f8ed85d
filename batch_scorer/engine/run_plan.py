"""Plan a run: list its images, and reuse the rows of earlier runs by the same method."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.errors import DecoderKilled, OutputError
from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.imaging.file_names import parse_patient
from batch_scorer.model.classifier import find_model_file, hash_model_file
from batch_scorer.results import store
from batch_scorer.results.checkpoint import CHECKPOINT_FOLDER as JOURNAL_FOLDER
from batch_scorer.results.checkpoint import Checkpoint
from batch_scorer.results.claim import check_claimable
from batch_scorer.results.commit import mark_duplicates
from batch_scorer.storage.output import open_output
from batch_scorer.storage.overlap import check_no_overlap
from batch_scorer.storage.source import open_source, read_labels
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.imaging.deidentify import Deidentifier
    from batch_scorer.results.schema import RunManifest, Score
    from batch_scorer.results.thumbnails import ReportImages
    from batch_scorer.storage.output import Output, OwnershipRecord
    from batch_scorer.storage.source import Source


@dataclass(frozen=True)
class RunPlan:
    """What is there to do, and what is done: ``rows`` of films that are still as they were.

    ``outputs`` are to be claimed, each with what an older version left there; the last one is the
    job's own. ``models`` are the hashes of the files that ``config_hash`` stands for.
    """

    outputs: list[tuple[Output, OwnershipRecord]]
    source: Source
    labels: dict[str, str]
    selected: int
    models: list[str]
    config_hash: str
    checkpoint: Checkpoint
    earlier_rows: dict[str, Score]
    rows: list[Score]
    report_images: ReportImages | None = None

    @property
    def output(self) -> Output:
        """Where the job's own results go."""
        return self.outputs[-1][0]


def plan_run(job: ScoreJob) -> RunPlan:
    """Find what the job is to do and what is done, and write nothing."""
    output = job.place
    source = open_source(job.images, job.limit, job.access)
    whole = open_output(job.output)
    check_no_overlap(job.images, whole, source)
    outputs = [
        (place, check_claimable(place)) for place in ([whole, output] if job.shard else [output])
    ]
    labels = read_labels(job.labels, source)
    taken = len(source.refs)
    if job.shard:
        source = replace(source, refs=tuple(r for r in source.refs if job.shard.contains(r.key)))
    models = _hash_models(job)
    config_hash = _hash_config(job, models)
    plan = RunPlan(
        outputs, source, labels, taken, models, config_hash, Checkpoint(output, config_hash), {}, []
    )
    return refresh_plan(job, plan)


def refresh_plan(job: ScoreJob, plan: RunPlan) -> RunPlan:
    """The plan with the rows that are settled by now."""
    found = _find_earlier_rows(
        (*job.earlier_outputs, plan.output), plan.config_hash, len(job.models)
    )
    settled = {key: _deidentify_patient(row, job.identifiers) for key, row in found.items()}
    return replace(plan, earlier_rows=settled, rows=_reuse_rows(plan.source, plan.labels, settled))


def config_hash(job: ScoreJob) -> str:
    """A short hash of all that decides an answer apart from the film."""
    return _hash_config(job, _hash_models(job))


def _hash_models(job: ScoreJob) -> list[str]:
    return [hash_model_file(find_model_file(model)) for model in job.models]


def _hash_config(job: ScoreJob, models: list[str]) -> str:
    deciding = {
        "models": models,
        "decode_version": DECODE_VERSION,
        "keep_atypical": job.keep_atypical,
        "identifiers": job.identifiers.fingerprint,
    }
    return hashlib.sha256(msgspec.json.encode(deciding, order="sorted")).hexdigest()[:16]


def _find_earlier_rows(places: Sequence[Output], config_hash: str, models: int) -> dict[str, Score]:
    """Rows of earlier runs by the same method, by image; a later place's before an earlier one's.

    What failed is tried again, but for an image that killed its decoder twice.
    """
    rows = [row for place in places for row in _read_rows(place, config_hash, models)]
    kept = [row for row in rows if row.status != "failed" or row.reason == DecoderKilled.code]
    return {row.image: row for row in kept}


def _read_rows(place: Output, config_hash: str, models: int) -> list[Score]:
    """The rows of a run by this method, finished or under way.

    Raises:
        LedgerError: They cannot be read, or are not by so many models.
    """
    rows = [*store.read_rows(place, config_hash), *Checkpoint(place, config_hash).read()]
    if all(row.is_complete(models) for row in rows):
        return rows
    raise OutputError(
        f"Expected rows with {models} answers for each scored film in {place.url}, found others.",
        f"Remove {store.PARQUET_FILE} and the folder {JOURNAL_FOLDER} to score all films anew.",
    )


def _deidentify_patient(row: Score, identifiers: Deidentifier) -> Score:
    """Treat the patient number of a file's name as it is asked for: older versions left it."""
    if row.patient and row.patient == parse_patient(row.image):
        return msgspec.structs.replace(row, patient=identifiers.apply_to_patient_id(row.patient))
    return row


def _reuse_rows(source: Source, labels: dict[str, str], settled: dict[str, Score]) -> list[Score]:
    """The settled rows of the films that are still the same, as their stamps say."""
    rows = []
    for ref in source.refs:
        row = settled.get(ref.key)
        if row and ref.stamp and row.stamp == ref.stamp:
            label = labels.get(ref.key, "")
            rows.append(msgspec.structs.replace(row, label=label))
    return rows


def find_finished_run(job: ScoreJob, plan: RunPlan) -> RunManifest | None:
    """The finished run that this job would only repeat, if there is one."""
    source, rows = plan.source, plan.rows
    old = store.read_manifest(plan.output) if len(rows) == len(source.refs) else None
    if old is None:
        return None
    asked = (
        plan.config_hash,
        source.url,
        redact_url(job.labels),
        source.listed,
        source.hidden,
        len(rows),
    )
    if asked != (old.config_hash, old.source, old.labels, old.listed, old.hidden, old.found):
        return None
    if job.gallery != msgspec.structs.replace(old.gallery, maps={}, no_maps_reason=""):
        return None
    try:
        old_rows = store.read_run(plan.output).rows
    except OutputError:  # its rows are not those that it wrote: they are put in place again
        return None
    return old if old_rows == mark_duplicates(rows) else None
