"""Rows on disk: predictions.csv, predictions.parquet and run.json, which is written last.

A reader sees a whole file or none, and ``run.json`` marks a finished run. In the CSV a text cell
that a spreadsheet would run as a formula gets a leading apostrophe; the Parquet file holds every
name exactly.
"""

from __future__ import annotations

import csv
import hashlib
import io
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import LedgerError
from batch_scorer.records import RunManifest, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL import Image

    from batch_scorer.output import Output
    from batch_scorer.records import ModelUsed

CSV_FILE = "predictions.csv"
PARQUET_FILE = "predictions.parquet"
RUN_FILE = "run.json"
REPORT_FILE = "report.pdf"
FILMS_FOLDER = "films"
EVIDENCE_SUFFIX = "-evidence"
_LAST_COLUMNS = (
    *("agreement", "spread", "duplicate_of", "width_px", "height_px", "patient", "sha256"),
)
_PROBABILITY = "probability_"
_METHOD = b"cxr method"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def withdraw_run(output: Output) -> None:
    """Remove a run's marker, report and pictures, before its rows are replaced."""
    output.remove(RUN_FILE, REPORT_FILE)
    output.remove_folder(FILMS_FOLDER)


def thumbnail_stem(row: Score) -> str:
    """What the names of a film's pictures begin with."""
    return row.sha256[:16]


def write_thumbnail(output: Output, row: Score, picture: Image.Image) -> None:
    """Write the small picture of a film."""
    _write_picture(output, thumbnail_stem(row), picture)


def write_evidence_map(output: Output, row: Score, picture: Image.Image) -> None:
    """Write the evidence map of a film."""
    _write_picture(output, f"{thumbnail_stem(row)}{EVIDENCE_SUFFIX}", picture)


def _write_picture(output: Output, stem: str, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    output.write(f"{FILMS_FOLDER}/{stem}.jpg", buffer.getvalue())


def columns(rows: Iterable[Score], models: Sequence[ModelUsed]) -> dict[str, list[Any]]:
    """The rows as named columns, in the order of the files."""
    rows = list(rows)
    names = [model.name for model in models]
    threshold = models[0].threshold
    scored = [row.status == "scored" for row in rows]
    table: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("image", "status", "reason", "detail", "label", "prediction")
    }
    table["probability"] = [
        row.probability if ok else None for row, ok in zip(rows, scored, strict=True)
    ]
    table["threshold"] = [threshold if ok else None for ok in scored]
    for name in ("uncertain", "typicality", "atypical", "viral"):
        table[name] = [getattr(row, name) for row in rows]
    table["model"] = [names[0] if ok else "" for ok in scored]
    for index, name in enumerate(names):
        table[f"{_PROBABILITY}{name}"] = [
            row.probabilities[index] if ok else None for row, ok in zip(rows, scored, strict=True)
        ]
    for name in _LAST_COLUMNS:
        table[name] = [getattr(row, name) for row in rows]
    return table


def write_rows(
    output: Output, rows: Sequence[Score], models: Sequence[ModelUsed], method: str = ""
) -> tuple[str, str]:
    """Write predictions.parquet and predictions.csv.

    The Parquet file also holds each file's stamp, and the method in its metadata: a later run takes
    rows over from it.

    Returns:
        The SHA-256 of the CSV file and of the Parquet file.

    Raises:
        LedgerError: The output cannot be written.
    """
    table = columns(rows, models)
    exact = _as_parquet({**table, "stamp": [row.stamp for row in rows]}, method)
    data = _as_csv(table).encode("utf-8")
    output.write(PARQUET_FILE, exact)
    output.write(CSV_FILE, data)
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(exact).hexdigest()


def write_manifest(output: Output, manifest: RunManifest) -> None:
    """Write run.json, the mark of a finished run."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    output.write(RUN_FILE, data + b"\n")


def read_manifest(output: Output) -> RunManifest | None:
    """What run.json says, None where no run has finished here.

    Raises:
        LedgerError: It is there and is no run.json.
    """
    data = output.read(RUN_FILE)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=RunManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise LedgerError(f"The run in {output.url} cannot be read: {exc}.") from exc


def read_run(output: Output) -> tuple[RunManifest, list[Score]]:
    """Read a finished run back.

    Raises:
        LedgerError: There is no finished run, or its files do not belong together.
    """
    manifest = read_manifest(output)
    table, exact = output.read(CSV_FILE), output.read(PARQUET_FILE)
    if manifest is None or table is None or exact is None:
        missing = RUN_FILE if manifest is None else CSV_FILE if table is None else PARQUET_FILE
        raise LedgerError(
            f"Expected a finished run in {output.url}, found no {missing}.",
            f"Make one with: cxr score IMAGES -o {output.url}",
        )
    for name, data, sha256 in (
        (CSV_FILE, table, manifest.rows_sha256),
        (PARQUET_FILE, exact, manifest.parquet_sha256),
    ):
        if hashlib.sha256(data).hexdigest() != sha256:
            raise LedgerError(
                f"{name} in {output.url} was changed after the run ended.", "Score the films again."
            )
    return manifest, _from_parquet(exact, output.url)[1]


def read_rows(output: Output, method: str) -> list[Score]:
    """The rows of a run by this method, whether it finished or was stopped while it ended.

    Raises:
        LedgerError: The Parquet file is damaged.
    """
    data = output.read(PARQUET_FILE)
    if data is None:
        return []
    made_by, rows = _from_parquet(data, output.url)
    return rows if made_by == method else []


def _from_parquet(data: bytes, url: str) -> tuple[str, list[Score]]:
    """The method and the rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        names = [name for name in table.column_names if name.startswith(_PROBABILITY)]
        rows = [_as_score(record, names) for record in table.to_pylist()]
    except (OSError, ValueError, KeyError) as exc:
        raise LedgerError(
            f"{PARQUET_FILE} in {url} cannot be read: {exc}.",
            "Remove it to score all films anew.",
        ) from exc
    return (table.schema.metadata or {}).get(_METHOD, b"").decode(), rows


def _as_score(record: dict[str, Any], names: list[str]) -> Score:
    known = {name: record[name] for name in Score.__struct_fields__ if name in record}
    answers = (record[name] for name in names) if record["status"] == "scored" else ()
    return Score(**{**known, "probabilities": tuple(answers)})


def _as_csv(table: dict[str, list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    for cells in zip(*table.values(), strict=True):
        writer.writerow([_cell(value) for value in cells])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _as_parquet(table: dict[str, list[Any]], method: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "width_px": pa.int32(),
        "height_px": pa.int32(),
        "agreement": pa.float64(),
        "spread": pa.float64(),
        "uncertain": pa.bool_(),
        "typicality": pa.float64(),
        "atypical": pa.bool_(),
        "viral": pa.float64(),
    }
    arrays = {
        name: pa.array(
            values,
            type=kinds.get(
                name, pa.float64() if name.startswith(("prob", "thresh")) else pa.string()
            ),
        )
        for name, values in table.items()
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, metadata={_METHOD: method.encode()}), buffer)
    return buffer.getvalue()
