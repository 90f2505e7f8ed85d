"""Commit of a run: it archives the replaced run, then writes the rows, and run.json last.

A process may die between any two lines of ``commit_run``. The next run with the same configuration
then finds every row, in the output or in the checkpoints, and commits them again.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer import __version__
from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.results import store
from batch_scorer.results.schema import BatchMetrics, RunManifest, Score
from batch_scorer.results.thumbnails import write_thumbnails
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES
from batch_scorer.system.log import log_event
from batch_scorer.system.process import available_cores, peak_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch_scorer.model.classifier import Classifier
    from batch_scorer.results.schema import Gallery, ModelUsed, RunFacts
    from batch_scorer.results.tables import ExtraColumns
    from batch_scorer.results.thumbnails import ReportImages
    from batch_scorer.results.usage import CoreHourPrice, RunCost
    from batch_scorer.storage.output import Output

ARCHIVE_FOLDER = "earlier"
"""Folder for replaced runs with rows that the later run does not have."""


@dataclass(frozen=True)
class ScoredRun:
    """A run with all of its rows, ready to be committed.

    ``rows`` holds one row per file, in the order of the files; the first of the ``models`` decides.
    ``facts.gallery`` is the requested gallery. ``facts.seconds``, ``facts.core_seconds`` and
    ``facts.peak_memory_bytes`` exclude the commit. ``core_hour_price`` is None if the run states no
    cost. ``extra_columns`` holds further columns of the tables. The report's images are selected
    from ``gallery_rows``, by default from all rows.
    """

    rows: Sequence[Score]
    models: list[ModelUsed]
    facts: RunFacts
    core_hour_price: CoreHourPrice | None = None
    extra_columns: ExtraColumns = field(default_factory=dict)
    gallery_rows: Sequence[Score] | None = None


@dataclass(frozen=True)
class ReportImageSource:
    """Source of the report's images, and the model for their evidence maps.

    ``load_model`` loads the first model by the SHA-256 of its file. It is called only if evidence
    maps are drawn, and returns None if that file is missing.
    """

    images: ReportImages
    load_model: Callable[[str], Classifier | None]


def commit_run(
    output: Output, run: ScoredRun, report_images: ReportImageSource | None = None
) -> RunManifest:
    """Write rows and report images, and run.json last.

    Args:
        output: The output of the run.
        run: The run.
        report_images: Source of the report's images, None to write no images.

    Returns:
        The content of run.json.

    Raises:
        OutputError: The output cannot be written. The next run reuses all scores.
    """
    since = time.perf_counter()
    _archive_replaced_run(output, run.rows, run.facts.config_hash)
    store.invalidate_run(output)
    hashes = store.write_rows(
        output, run.rows, run.models, run.facts.config_hash, run.extra_columns
    )
    gallery = (
        _write_report_images(output, run, report_images) if report_images else run.facts.gallery
    )
    facts = msgspec.structs.replace(
        _add_commit_usage(run.facts, time.perf_counter() - since), gallery=gallery
    )
    read = len(run.rows) - facts.reused
    price = (
        run.core_hour_price.compute_cost(facts.core_seconds, read) if run.core_hour_price else None
    )
    manifest = _make_manifest(run, facts, hashes, price)
    store.write_manifest(output, manifest)
    log_event("run_finished", **make_log_fields(manifest))
    return manifest


def _write_report_images(output: Output, run: ScoredRun, source: ReportImageSource) -> Gallery:
    first = run.models[0]
    return write_thumbnails(
        output,
        source.images,
        run.rows if run.gallery_rows is None else run.gallery_rows,
        first.threshold,
        run.facts.gallery,
        partial(source.load_model, first.sha256),
    )


def _add_commit_usage(facts: RunFacts, record_s: float) -> RunFacts:
    """Add the time and memory of the commit, which runs in one process, to the facts."""
    recorded_s = facts.seconds.get("record", 0.0)
    return msgspec.structs.replace(
        facts,
        seconds=facts.seconds | {"record": recorded_s + record_s},
        core_seconds=facts.core_seconds + available_cores() * record_s,
        peak_memory_bytes=max(facts.peak_memory_bytes, peak_memory_bytes()),
    )


def _make_manifest(
    run: ScoredRun, facts: RunFacts, hashes: tuple[str, str], price: RunCost | None
) -> RunManifest:
    """Combine the facts with counts of the rows; ``hashes`` are of the CSV and Parquet files."""
    rows_sha256, parquet_sha256 = hashes
    rows, card = run.rows, run.models[0].card
    scored = [row for row in rows if row.status == "scored"]
    by_status = Counter(row.status for row in rows)
    return RunManifest(
        **msgspec.structs.asdict(facts),
        run_id=f"{format_start_time(datetime.fromisoformat(facts.started))}-{rows_sha256[:6]}",
        version=__version__,
        models=run.models,
        metrics=_compute_batch_metrics(rows, run.models),
        decode_version=DECODE_VERSION,
        rows_sha256=rows_sha256,
        parquet_sha256=parquet_sha256,
        cost=price,
        found=len(rows),
        scored=by_status["scored"],
        rejected=by_status["rejected"],
        failed=by_status["failed"],
        flagged=sum(row.prediction == CLASSES[1] for row in scored),
        duplicates=sum(bool(row.duplicate_of) for row in scored),
        undecided=sum(bool(row.undecided) for row in scored) if card.band else None,
        atypical=sum(bool(row.atypical) for row in scored) if card.typicality else None,
        reasons=dict(sorted(Counter(row.reason for row in rows if row.reason).items())),
        labelled=sum(bool(row.label) for row in scored),
    )


def make_log_fields(manifest: RunManifest) -> dict[str, Any]:
    """Return the fields of a run for the log: its id, numbers and reason codes."""
    return {name: msgspec.to_builtins(getattr(manifest, name)) for name in _LOGGED_FIELDS}


_LOGGED_FIELDS = (
    *("run_id", "found", "scored", "rejected", "failed", "flagged", "reused", "duplicates"),
    *("undecided", "atypical", "reasons", "seconds", "worker_seconds", "images_per_second"),
    *("retries", "bytes_read", "peak_memory_bytes", "core_seconds", "cost"),
)


def mark_duplicates(rows: Sequence[Score]) -> list[Score]:
    """Sort rows by file, and set ``duplicate_of`` of each byte-identical copy to its first file."""
    first: dict[str, str] = {}
    marked = []
    for row in sorted(rows, key=lambda row: row.image):
        original = first.setdefault(row.sha256, row.image) if row.sha256 else row.image
        marked.append(_mark_duplicate(row, "" if original == row.image else original))
    return marked


def _mark_duplicate(row: Score, original: str) -> Score:
    if row.duplicate_of == original:
        return row
    return msgspec.structs.replace(row, duplicate_of=original)


def _archive_replaced_run(output: Output, rows: Sequence[Score], config_hash: str) -> None:
    """Archive the finished run in an output if it has rows that the new run lacks."""
    old = store.read_manifest(output)
    if old is None:
        return
    kept = {row.image for row in rows} if old.config_hash == config_hash else set()
    if all(row.image in kept for row in store.read_rows(output, old.config_hash)):
        return
    contents = {name: output.read(name, MAX_TABLE_READ_BYTES) for name in store.RUN_FILES}
    output.write_all(
        {
            f"{ARCHIVE_FOLDER}/{old.run_id}/{name}": data
            for name, data in contents.items()
            if data is not None
        }
    )


def format_start_time(started: datetime) -> str:
    """Format the first part of a run's id, such as 20260102-030405."""
    return f"{started:%Y%m%d-%H%M%S}"


def _compute_batch_metrics(rows: Sequence[Score], models: list[ModelUsed]) -> list[BatchMetrics]:
    labelled = [row for row in rows if row.status == "scored" and row.label]
    if not labelled:
        return []
    labels = [CLASSES.index(row.label) for row in labelled]
    patients = [row.patient_key or row.sha256 for row in labelled]  # a copy is not a new image
    result = []
    for index, model in enumerate(models):
        probabilities = [row.probabilities[index] for row in labelled]
        result.append(
            BatchMetrics(
                model=model.name,
                images=len(labelled),
                pneumonia=sum(labels),
                metrics=classification.compute_metrics(
                    labels, probabilities, model.threshold, patients
                ),
                confusion=classification.confusion_matrix(labels, probabilities, model.threshold),
                roc=classification.roc_points(labels, probabilities),
            )
        )
    return result
