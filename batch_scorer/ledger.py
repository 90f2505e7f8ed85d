"""Rows on disk: predictions.csv, predictions.parquet and run.json, which is written last.

Every file is written under a temporary name and renamed, so that a reader sees a whole file or
none; ``run.json`` marks a finished run. In the CSV a text cell that a spreadsheet would run as a
formula gets a leading apostrophe; the Parquet file holds every name exactly.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.errors import LedgerError
from batch_scorer.records import RunManifest, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL import Image

    from batch_scorer.records import ModelUsed

CSV_FILE = "predictions.csv"
PARQUET_FILE = "predictions.parquet"
RUN_FILE = "run.json"
REPORT_FILE = "report.pdf"
FILMS_FOLDER = "films"
_LAST_COLUMNS = (
    *("agreement", "spread", "duplicate_of", "width_px", "height_px", "patient", "study"),
    "sha256",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def prepare_output(output: Path) -> None:
    """Make the output folder and prove that it can be written.

    Raises:
        LedgerError: It cannot be made or written.
    """
    probe = output / ".write-test"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
        (output / FILMS_FOLDER).mkdir(exist_ok=True)
    except OSError as exc:
        raise LedgerError(
            f"The output folder {output} cannot be written: {exc.strerror or exc}.",
            "Choose another folder with -o, or change its permissions.",
        ) from exc


def withdraw_run(output: Path) -> None:
    """Remove an older run's marker, report and pictures, before its rows are replaced."""
    for path in (output / RUN_FILE, output / REPORT_FILE, *(output / FILMS_FOLDER).glob("*.jpg")):
        path.unlink(missing_ok=True)


def thumbnail_path(output: Path, row: Score) -> Path:
    """Where the small picture of a film lies, if the report shows it."""
    return output / FILMS_FOLDER / f"{row.sha256[:16]}.jpg"


def write_thumbnail(output: Path, row: Score, picture: Image.Image) -> None:
    """Write the small picture of a film."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    _write(thumbnail_path(output, row), buffer.getvalue())


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
        table[f"probability_{name}"] = [
            row.probabilities[index] if ok else None for row, ok in zip(rows, scored, strict=True)
        ]
    for name in _LAST_COLUMNS:
        table[name] = [getattr(row, name) for row in rows]
    return table


def write_rows(output: Path, rows: Sequence[Score], models: Sequence[ModelUsed]) -> tuple[str, str]:
    """Write predictions.csv and predictions.parquet.

    Returns:
        The SHA-256 of each.

    Raises:
        LedgerError: The output cannot be written.
    """
    table = columns(rows, models)
    data = _as_csv(table).encode("utf-8")
    exact = _as_parquet(table)
    _write(output / CSV_FILE, data)
    _write(output / PARQUET_FILE, exact)
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(exact).hexdigest()


def write_manifest(output: Path, manifest: RunManifest) -> None:
    """Write run.json, the mark of a finished run."""
    _write(output / RUN_FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_run(output: Path) -> tuple[RunManifest, list[Score]]:
    """Read a finished run back.

    Raises:
        LedgerError: There is no finished run, or its files do not belong together.
    """
    import pyarrow.parquet as pq

    try:
        manifest = msgspec.json.decode((output / RUN_FILE).read_bytes(), type=RunManifest)
        expected = {CSV_FILE: manifest.rows_sha256, PARQUET_FILE: manifest.parquet_sha256}
        for name, sha256 in expected.items():
            if hashlib.sha256((output / name).read_bytes()).hexdigest() != sha256:
                raise LedgerError(
                    f"{name} in {output} was changed after the run ended.", "Score the films again."
                )
        records = pq.read_table(output / PARQUET_FILE).to_pylist()
    except FileNotFoundError as exc:
        raise LedgerError(
            f"Expected a finished run in {output}, found no {Path(exc.filename).name}.",
            f"Make one with: cxr score IMAGES -o {output}",
        ) from exc
    except (OSError, ValueError) as exc:
        raise LedgerError(f"The run in {output} cannot be read: {exc}.") from exc
    names = [model.name for model in manifest.models]
    return manifest, [_as_score(record, names) for record in records]


def _as_score(record: dict[str, Any], names: list[str]) -> Score:
    probabilities = tuple(record[f"probability_{name}"] for name in names)
    known = {name: record[name] for name in Score.__struct_fields__ if name in record}
    scored = record["status"] == "scored"
    return Score(**{**known, "probabilities": probabilities if scored else ()})


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
    text = str(value).replace("\r", "\\r")  # Python's csv leaves one unquoted: two rows to a reader
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _as_parquet(table: dict[str, list[Any]]) -> bytes:
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
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as exc:
        raise LedgerError(
            f"{path} cannot be written: {exc.strerror or exc}.", "Free some space or change -o."
        ) from exc
