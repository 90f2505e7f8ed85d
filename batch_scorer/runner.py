"""score_batch(job): the one loop. source -> decode -> classify -> record.

Threads read and decode ahead while ONNX Runtime works on the batch before. Nothing here prints or
parses a command line: progress goes to a callback, the outcome is a ``RunManifest``.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnxruntime as ort
from PIL import Image

from batch_scorer import __version__, ledger, metrics
from batch_scorer.card import CLASSES
from batch_scorer.classifier import Classifier
from batch_scorer.decoding import DECODE_VERSION, decode_radiograph, measure_radiograph
from batch_scorer.errors import ImageError, LedgerError, UsageError
from batch_scorer.identifiers import Identifiers, read_identifiers
from batch_scorer.judgement import Film, judge_batch
from batch_scorer.process import available_cores
from batch_scorer.records import BatchMetrics, ModelUsed, RunManifest, Score, patient_of
from batch_scorer.source import open_source, read_labels
from batch_scorer.triage import first_look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_scorer.records import ImageRef
    from batch_scorer.source import Source

    Progress = Callable[[int, int], None]

THUMBNAIL_PX = 320
"""Longest side of the pictures in the report."""
PREFETCH_BATCHES = 4
"""Decoded batches that may wait for the models; bounds the memory."""


@dataclass(frozen=True)
class ScoreJob:
    """What to score, with which models, and where the results go.

    ``labels`` is "folders", "none" or a CSV file; ``provider`` is "auto", "cpu" or "cuda";
    ``threads`` is every core that this process may use unless given. ``keep_atypical`` scores also
    what looks like no film that the first model knows. ``identifiers`` says how
    patient and study are told.
    """

    images: str
    output: Path
    models: tuple[str, ...]
    labels: str = "folders"
    provider: str = "auto"
    batch_size: int = 32
    threads: int | None = None
    limit: int | None = None
    keep_atypical: bool = False
    identifiers: Identifiers = field(default_factory=Identifiers)


def score_batch(job: ScoreJob, progress: Progress | None = None) -> RunManifest:
    """Score every file of the source; write predictions, pictures for the report and run.json.

    Args:
        job: What to do.
        progress: Called with (files done, files found) after every batch.

    Raises:
        CxrError: The run as a whole cannot go on. A single bad file never raises.
    """
    clock = _Clock()
    threads = job.threads or available_cores()
    source = open_source(job.images, job.limit)
    _check_apart(job, source)
    ledger.prepare_output(job.output)
    labels = read_labels(job.labels, source.refs)
    classifiers = [Classifier.load(name, job.provider, threads) for name in job.models]
    _check_names(classifiers)
    models = [ModelUsed(c.path.name, c.sha256, c.card) for c in classifiers]
    ledger.withdraw_run(job.output)
    clock.lap("start")

    rows: list[Score] = []
    first_by_hash: dict[str, Score] = {}
    sizes_px = sorted({c.card.size_px for c in classifiers})

    def decode(ref: ImageRef) -> Film:
        return _decode(source, ref, labels.get(ref.key, ""), sizes_px, job.identifiers)

    films = _decode_ahead(source, decode, threads, job.batch_size)
    while batch := list(islice(films, job.batch_size)):
        rows.extend(judge_batch(batch, classifiers, first_by_hash, keep_atypical=job.keep_atypical))
        if progress:
            progress(len(rows), len(source.refs))
    clock.lap("score")

    rows_sha256, parquet_sha256 = ledger.write_rows(job.output, rows, models)
    _write_thumbnails(job.output, source, rows, models[0].threshold)
    scores = _batch_metrics(rows, models)
    clock.lap("record")
    manifest = RunManifest(
        run_id=f"{clock.started:%Y%m%d-%H%M%S}-{rows_sha256[:6]}",
        started=clock.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **_counts(source, rows),
        uncertain=sum(bool(row.uncertain) for row in rows) if models[0].card.band else None,
        atypical=sum(bool(row.atypical) for row in rows if row.status == "scored")
        if models[0].card.typicality
        else None,
        labels=job.labels,
        models=models,
        metrics=scores,
        provider=classifiers[0].provider,
        batch_size=job.batch_size,
        threads=threads,
        seconds=clock.seconds,
        images_per_second=round(len(rows) / max(clock.seconds["score"], 1e-3), 1),
        rows_sha256=rows_sha256,
        parquet_sha256=parquet_sha256,
        version=__version__,
        decode_version=DECODE_VERSION,
        identifiers=job.identifiers.effective,
        versions={"onnxruntime": ort.__version__}
        | {name: version(name) for name in ("numpy", "pillow", "pydicom")},
    )
    ledger.write_manifest(job.output, manifest)
    return manifest


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


def _check_apart(job: ScoreJob, source: Source) -> None:
    """Results written among the films would be scored as films by the next run."""
    output, folder = job.output.resolve(), Path(source.root).resolve()
    if source.local and folder in (output, *output.parents):
        raise UsageError(
            f"The output folder {job.output} lies inside the scored folder {source.url}.",
            "Choose one outside it with -o.",
        )


def _check_names(classifiers: list[Classifier]) -> None:
    names = Counter(c.card.name for c in classifiers)
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise UsageError(f"Two models are named {twice[0]}: their columns would be mixed up.")


def _decode_ahead(
    source: Source, decode: Callable[[ImageRef], Film], threads: int, batch_size: int
) -> Iterator[Film]:
    """Read and decode in threads, in order, at most a few batches ahead of the models."""
    refs = iter(source.refs)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting = deque(
            pool.submit(decode, ref) for ref in islice(refs, PREFETCH_BATCHES * batch_size)
        )
        try:
            while waiting:
                film = waiting.popleft().result()
                waiting.extend(pool.submit(decode, ref) for ref in islice(refs, 1))
                yield film
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(
    source: Source, ref: ImageRef, label: str, sizes_px: list[int], identifiers: Identifiers
) -> Film:
    row = Score(image=ref.key, status="scored", label=label, patient=patient_of(ref.key))
    try:
        data = source.read(ref)
        row = msgspec.structs.replace(row, sha256=hashlib.sha256(data).hexdigest())
        patient, study = identifiers.apply(*read_identifiers(data))
        row = msgspec.structs.replace(row, patient=patient or row.patient, study=study)
        pixels = {size: decode_radiograph(data, size) for size in sizes_px}
        width_px, height_px = measure_radiograph(data)
    except ImageError as exc:
        failed = msgspec.structs.replace(row, status=exc.status, reason=exc.code, detail=str(exc))
        return Film(failed)
    return Film(msgspec.structs.replace(row, width_px=width_px, height_px=height_px), pixels)


def _write_thumbnails(output: Path, source: Source, rows: list[Score], threshold: float) -> None:
    """Small pictures, at their own proportions, of the films that the report shows."""
    shown = [row for group in first_look(rows, threshold).values() for row in group]
    paths = {ref.key: ref for ref in source.refs}
    for row in shown:
        try:
            pixels = decode_radiograph(source.read(paths[row.image]), THUMBNAIL_PX)
        except ImageError:  # gone since it was scored: the report says that its picture is missing
            continue
        width_px, height_px = row.width_px or 1, row.height_px or 1
        scale = THUMBNAIL_PX / max(width_px, height_px)
        size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        ledger.write_thumbnail(output, row, picture)


def _batch_metrics(rows: list[Score], models: list[ModelUsed]) -> list[BatchMetrics]:
    labelled = [row for row in rows if row.status == "scored" and row.label]
    if not labelled:
        return []
    truth = [CLASSES.index(row.label) for row in labelled]
    patients = [row.patient or row.sha256 for row in labelled]  # copies of a film are no new films
    result = []
    for index, model in enumerate(models):
        answers = [row.probabilities[index] for row in labelled]
        result.append(
            BatchMetrics(
                model=model.name,
                films=len(labelled),
                pneumonia=sum(truth),
                metrics=metrics.evaluate(truth, answers, model.threshold, patients),
                confusion=metrics.confusion(truth, answers, model.threshold),
                roc=metrics.roc_points(truth, answers),
            )
        )
    return result


def _counts(source: Source, rows: list[Score]) -> dict[str, Any]:
    """What was found and what became of it. The three outcomes must add up."""
    by_status = Counter(row.status for row in rows)
    if by_status.total() != len(source.refs):
        raise LedgerError(f"{len(source.refs)} files were found, {by_status.total()} have a row.")
    return {
        "source": source.url,
        "synthetic": source.synthetic,
        "listed": source.listed,
        "found": len(source.refs),
        "scored": by_status["scored"],
        "rejected": by_status["rejected"],
        "failed": by_status["failed"],
        "flagged": sum(row.prediction == CLASSES[1] for row in rows),
        "duplicates": sum(bool(row.duplicate_of) for row in rows),
        "hidden": source.hidden,
        "reasons": dict(sorted(Counter(row.reason for row in rows if row.reason).items())),
        "labelled": sum(bool(row.label) for row in rows if row.status == "scored"),
    }
