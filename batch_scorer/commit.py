"""Put a run's rows in place; what it does not carry on is kept, and the mark of the end comes last.

A process may die between any two lines of ``commit_run``: the next run by the same method finds
every row, either here or in the journal, and puts them in place again.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer import __version__, ledger, metrics
from batch_scorer.card import CLASSES
from batch_scorer.decoding import DECODE_VERSION
from batch_scorer.log import log_event
from batch_scorer.output import MOST_TABLE_BYTES
from batch_scorer.process import available_cores, peak_memory_bytes
from batch_scorer.records import BatchMetrics, RunManifest, Score
from batch_scorer.thumbnails import write_thumbnails
from batch_scorer.triage import fresh_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch_scorer.classifier import Classifier
    from batch_scorer.output import Output
    from batch_scorer.records import ModelUsed
    from batch_scorer.spending import Tariff
    from batch_scorer.thumbnails import ReportImages

EARLIER_FOLDER = "earlier"
"""Where runs lie whose rows a later run does not carry on."""


def commit_run(
    output: Output,
    films: ReportImages | None,
    rows: Sequence[Score],
    models: list[ModelUsed],
    load_model: Callable[[str], Classifier | None],
    tariff: Tariff | None = None,
    **facts: Any,
) -> RunManifest:
    """Write rows, pictures and at last run.json.

    Args:
        output: Where they go.
        films: Where the pictures of the report come from; without it there are none.
        rows: One per film found, in the order of the files.
        models: The first one decides.
        load_model: Loads the first one, by the SHA-256 of its file; called only where evidence maps
            are to be drawn; gives None where that file is not at hand.
        tariff: What a core costs, where the price of the run is to be told.
        facts: What else ``RunManifest`` says and the rows do not; of ``gallery``, what is asked;
            of ``seconds``, ``core_seconds`` and ``peak_memory_bytes``, what was before this.

    Raises:
        LedgerError: The output cannot be written. Run again: nothing that was settled is lost.
    """
    since = time.perf_counter()
    method = facts["method"]
    _keep_earlier(output, rows, method)
    ledger.withdraw_run(output)
    rows_sha256, parquet_sha256 = ledger.write_rows(output, rows, models, method)
    gallery = facts["gallery"]
    if films:
        shown = fresh_rows(rows, facts.get("night", ""))
        first = partial(load_model, models[0].sha256)
        gallery = write_thumbnails(output, films, shown, models[0].threshold, gallery, first)
    manifest = RunManifest(
        run_id=f"{name_run(datetime.fromisoformat(facts['started']))}-{rows_sha256[:6]}",
        models=models,
        metrics=_batch_metrics(rows, models),
        rows_sha256=rows_sha256,
        parquet_sha256=parquet_sha256,
        version=__version__,
        decode_version=DECODE_VERSION,
        **_counts(rows, models[0]),
        **facts | {"gallery": gallery} | _spending(facts, _seconds(since), tariff, len(rows)),
    )
    ledger.write_manifest(output, manifest)
    log_event("run_finished", **tell_run(manifest))
    return manifest


def tell_run(manifest: RunManifest) -> dict[str, Any]:
    """What a log says of a run: numbers alone."""
    return {name: msgspec.to_builtins(getattr(manifest, name)) for name in _TOLD}


_TOLD = (
    *("run_id", "found", "scored", "rejected", "failed", "flagged", "reused", "duplicates"),
    *("uncertain", "atypical", "reasons", "seconds", "worker_seconds", "images_per_second"),
    *("retries", "bytes_read", "peak_memory_bytes", "core_seconds", "price"),
)


def name_copies(rows: Sequence[Score]) -> list[Score]:
    """The rows in the order of the files, each byte-identical copy naming its first."""
    first: dict[str, str] = {}
    named = []
    for row in sorted(rows, key=lambda row: row.image):
        original = first.setdefault(row.sha256, row.image) if row.sha256 else row.image
        named.append(_naming(row, "" if original == row.image else original))
    return named


def _naming(row: Score, original: str) -> Score:
    if row.duplicate_of == original:
        return row
    return msgspec.structs.replace(row, duplicate_of=original)


def _keep_earlier(output: Output, rows: Sequence[Score], method: str) -> None:
    """Keep a copy of a finished run that holds rows which this one does not carry on."""
    old = ledger.read_manifest(output)
    if old is None:
        return
    carried = {row.image for row in rows} if old.method == method else set()
    if all(row.image in carried for row in ledger.read_rows(output, old.method)):
        return
    contents = {name: output.read(name, MOST_TABLE_BYTES) for name in ledger.RUN_FILES}
    output.write_all(
        {
            f"{EARLIER_FOLDER}/{old.run_id}/{name}": data
            for name, data in contents.items()
            if data is not None
        }
    )


def _spending(
    facts: dict[str, Any], record_s: float, tariff: Tariff | None, found: int
) -> dict[str, Any]:
    """What the run spent in all: what was spent before, and on this, which one process does."""
    core_seconds = round(facts["core_seconds"] + available_cores() * record_s, 3)
    recorded_s = facts["seconds"].get("record", 0.0)
    return {
        "seconds": facts["seconds"] | {"record": round(recorded_s + record_s, 3)},
        "core_seconds": core_seconds,
        "peak_memory_bytes": max(facts["peak_memory_bytes"], peak_memory_bytes()),
        "price": tariff.price(core_seconds, found - facts["reused"]) if tariff else None,
    }


def _seconds(since: float) -> float:
    return round(time.perf_counter() - since, 3)


def name_run(started: datetime) -> str:
    """20260102-030405, what the run's id begins with."""
    return f"{started:%Y%m%d-%H%M%S}"


def _batch_metrics(rows: Sequence[Score], models: list[ModelUsed]) -> list[BatchMetrics]:
    labelled = [row for row in rows if row.status == "scored" and row.label]
    if not labelled:
        return []
    truth = [CLASSES.index(row.label) for row in labelled]
    patients = [row.known_patient or row.sha256 for row in labelled]  # a copy is no new film
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


def _counts(rows: Sequence[Score], model: ModelUsed) -> dict[str, Any]:
    """What became of the files."""
    scored = [row for row in rows if row.status == "scored"]
    by_status = Counter(row.status for row in rows)
    return {
        "found": len(rows),
        "scored": len(scored),
        "rejected": by_status["rejected"],
        "failed": by_status["failed"],
        "flagged": sum(row.prediction == CLASSES[1] for row in scored),
        "duplicates": sum(bool(row.duplicate_of) for row in scored),
        "uncertain": sum(bool(row.uncertain) for row in scored) if model.card.band else None,
        "atypical": sum(bool(row.atypical) for row in scored) if model.card.typicality else None,
        "reasons": dict(sorted(Counter(row.reason for row in rows if row.reason).items())),
        "labelled": sum(bool(row.label) for row in scored),
    }
