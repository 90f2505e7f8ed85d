"""Plan a run: list its images, and reuse the rows of earlier runs with the same configuration."""

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
from batch_scorer.results.checkpoint import CHECKPOINT_FOLDER, Checkpoint
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
    """A run's remaining work, and the reusable ``rows`` of images that have not changed.

    ``outputs`` are the outputs to claim, each with the record of unrecorded files that an older
    version left; the last one is the job's own. ``models`` are the SHA-256 hashes of the model
    files, which are part of ``config_hash``. ``selected`` counts the images of all shards.
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
        """Output for the job's own results."""
        return self.outputs[-1][0]


def plan_run(job: ScoreJob) -> RunPlan:
    """Plan a job: find its images and the rows that it can reuse. Nothing is written."""
    output = job.own_output
    source = open_source(job.images, job.limit, job.access)
    whole_output = open_output(job.output)
    check_no_overlap(job.images, whole_output, source)
    outputs = [
        (claimed, check_claimable(claimed))
        for claimed in ([whole_output, output] if job.shard else [output])
    ]
    labels = read_labels(job.labels, source)
    selected = len(source.refs)
    if job.shard:
        source = replace(source, refs=tuple(r for r in source.refs if job.shard.contains(r.key)))
    models = _hash_models(job)
    config_hash = _hash_config(job, models)
    plan = RunPlan(
        outputs,
        source,
        labels,
        selected,
        models,
        config_hash,
        Checkpoint(output, config_hash),
        {},
        [],
    )
    return refresh_plan(job, plan)


def refresh_plan(job: ScoreJob, plan: RunPlan) -> RunPlan:
    """Update a plan with the rows that exist by now."""
    found = _find_earlier_rows(
        (*job.earlier_outputs, plan.output), plan.config_hash, len(job.models)
    )
    earlier = {key: _deidentify_patient(row, job.identifiers) for key, row in found.items()}
    return replace(plan, earlier_rows=earlier, rows=_reuse_rows(plan.source, plan.labels, earlier))


def config_hash(job: ScoreJob) -> str:
    """Return a short hash of everything that decides a score except the image."""
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


def _find_earlier_rows(
    outputs: Sequence[Output], config_hash: str, n_models: int
) -> dict[str, Score]:
    """Read the rows of earlier runs with this configuration, by image; later outputs win.

    Failed images are tried again, except those that killed the decoder.
    """
    rows = [row for output in outputs for row in _read_rows(output, config_hash, n_models)]
    kept = [row for row in rows if row.status != "failed" or row.reason == DecoderKilled.code]
    return {row.image: row for row in kept}


def _read_rows(output: Output, config_hash: str, n_models: int) -> list[Score]:
    """Read the rows of a run with this configuration, finished or in progress.

    Raises:
        OutputError: The rows cannot be read, or are not from this number of models.
    """
    rows = [*store.read_rows(output, config_hash), *Checkpoint(output, config_hash).read()]
    if all(row.is_complete(n_models) for row in rows):
        return rows
    raise OutputError(
        f"Expected {n_models} probabilities for each scored image in {output.url}, "
        "found a different number.",
        f"Remove {store.PARQUET_FILE} and the folder {CHECKPOINT_FOLDER} to score all images "
        "again.",
    )


def _deidentify_patient(row: Score, identifiers: Deidentifier) -> Score:
    """De-identify a patient number that an older version copied from the file name."""
    if row.patient and row.patient == parse_patient(row.image):
        return msgspec.structs.replace(row, patient=identifiers.apply_to_patient_id(row.patient))
    return row


def _reuse_rows(source: Source, labels: dict[str, str], earlier: dict[str, Score]) -> list[Score]:
    """Select the rows of images whose stamps have not changed, with their current labels."""
    rows = []
    for ref in source.refs:
        row = earlier.get(ref.key)
        if row and ref.stamp and row.stamp == ref.stamp:
            label = labels.get(ref.key, "")
            rows.append(msgspec.structs.replace(row, label=label))
    return rows


def find_finished_run(job: ScoreJob, plan: RunPlan) -> RunManifest | None:
    """Find a finished run that this job would only repeat."""
    source, rows = plan.source, plan.rows
    old = store.read_manifest(plan.output) if len(rows) == len(source.refs) else None
    if old is None:
        return None
    requested = (
        plan.config_hash,
        source.url,
        redact_url(job.labels),
        source.listed,
        source.hidden,
        len(rows),
    )
    if requested != (old.config_hash, old.source, old.labels, old.listed, old.hidden, old.found):
        return None
    if job.gallery != msgspec.structs.replace(old.gallery, maps={}, no_maps_reason=""):
        return None
    try:
        old_rows = store.read_run(plan.output).rows
    except OutputError:  # its rows were changed since: write them again
        return None
    return old if old_rows == mark_duplicates(rows) else None
