"""Rows on disk: predictions.csv, predictions.parquet and run.json, which is written last.

A reader sees a whole file or none, and ``run.json`` marks a finished run.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from batch_scorer.errors import LedgerError
from batch_scorer.results.old_versions import decode_manifest
from batch_scorer.results.tables import as_csv, as_parquet, from_parquet
from batch_scorer.storage.output import MOST_TABLE_BYTES, digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from batch_scorer.results.schema import ModelUsed, RunManifest, Score
    from batch_scorer.results.tables import Added, Table
    from batch_scorer.storage.output import Output

CSV_FILE = "predictions.csv"
PARQUET_FILE = "predictions.parquet"
RUN_FILE = "run.json"
REPORT_FILE = "report.pdf"
REPORT_FILES = {"pdf": REPORT_FILE, "html": "report.html", "slides": "slides.pdf"}
"""The report's file by format."""
NOTES_FILE = "slides-notes.txt"
DRAWN_FILES = (*REPORT_FILES.values(), NOTES_FILE)
"""All that is drawn from a run, and goes when its rows go."""
RUN_FILES = (CSV_FILE, PARQUET_FILE, *DRAWN_FILES, RUN_FILE)
"""What a finished run may have beside its pictures, the mark of its end last."""
FILMS_FOLDER = "films"
EVIDENCE_SUFFIX = "-evidence"
PICTURE_NAME = rf"[0-9a-f]{{16}}(?:{EVIDENCE_SUFFIX})?"
"""What a picture's name looks like, without its ending: a film's, or its evidence map's."""
_PICTURE_FILE = re.compile(rf"{FILMS_FOLDER}/{PICTURE_NAME}\.jpg")


def withdraw_run(output: Output) -> None:
    """Remove a run's marker, reports and pictures, before its rows are replaced."""
    output.remove(RUN_FILE, *DRAWN_FILES, *find_pictures(output))
    output.remove_empty(FILMS_FOLDER)


def find_pictures(output: Output) -> list[str]:
    """The files of an output whose names are those of pictures of films."""
    names = output.names(FILMS_FOLDER)
    return [name for name in names if _PICTURE_FILE.fullmatch(name)]


def thumbnail_stem(row: Score) -> str:
    """What the names of a film's pictures begin with."""
    return row.sha256[:16]


def encode_thumbnail(row: Score, picture: Image.Image) -> tuple[str, bytes]:
    """The small picture of a film, as a file: its name and its content."""
    return _encode(thumbnail_stem(row), picture)


def encode_evidence_map(row: Score, picture: Image.Image) -> tuple[str, bytes]:
    """The evidence map of a film, as a file: its name and its content."""
    return _encode(f"{thumbnail_stem(row)}{EVIDENCE_SUFFIX}", picture)


def _encode(stem: str, picture: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"{FILMS_FOLDER}/{stem}.jpg", buffer.getvalue()


def write_rows(
    output: Output,
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    method: str = "",
    added: Added | None = None,
) -> tuple[str, str]:
    """Write predictions.parquet and predictions.csv.

    Args:
        output: The folder of the run.
        rows: One per file found, in the order of the files.
        models: The first one decides.
        method: The method that made the rows.
        added: Further columns by their names, a text for each row.

    Returns:
        The SHA-256 of the CSV file and of the Parquet file.

    Raises:
        LedgerError: The output cannot be written.
    """
    exact = _write(output, PARQUET_FILE, as_parquet(rows, models, method, added))
    return _write(output, CSV_FILE, as_csv(rows, models, added)), exact


def _write(output: Output, name: str, data: bytes) -> str:
    """Write a table, which may be large and is given up at once; its SHA-256."""
    output.write(name, data)
    return digest(data)


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
    return decode_manifest(
        data,
        f"The run in {output.url}",
        f"Remove {RUN_FILE} there, and the next run puts its rows in place again.",
    )


class FinishedRun(NamedTuple):
    """A finished run as it was read back; ``added`` are columns that its writer added."""

    manifest: RunManifest
    rows: list[Score]
    added: dict[str, list[str]]


def read_run(output: Output) -> FinishedRun:
    """Read a finished run back.

    Raises:
        LedgerError: There is no finished run, or its files do not belong together.
    """
    manifest = read_manifest(output)
    cells, exact = (output.read(name, MOST_TABLE_BYTES) for name in (CSV_FILE, PARQUET_FILE))
    if manifest is None or cells is None or exact is None:
        missing = RUN_FILE if manifest is None else CSV_FILE if cells is None else PARQUET_FILE
        raise LedgerError(
            f"Expected a finished run in {output.url}, found no {missing}.",
            f"Make one with: cxr score IMAGES -o {output.url}",
        )
    for name, data, sha256 in (
        (CSV_FILE, cells, manifest.rows_sha256),
        (PARQUET_FILE, exact, manifest.parquet_sha256),
    ):
        if digest(data) != sha256:
            raise LedgerError(
                f"{name} in {output.url} was changed after the run ended.", "Score the films again."
            )
    table = _from_parquet(exact, output.url)
    _check_together(manifest, table, output.url)
    return FinishedRun(manifest, table.rows, table.added)


def read_rows(output: Output, method: str) -> list[Score]:
    """The rows of a run by this method, whether it finished or was stopped while it ended.

    Raises:
        LedgerError: The Parquet file is damaged.
    """
    data = output.read(PARQUET_FILE, MOST_TABLE_BYTES)
    if data is None:
        return []
    table = _from_parquet(data, output.url)
    return table.rows if table.method == method else []


def _check_together(manifest: RunManifest, table: Table, url: str) -> None:
    """Refuse rows that are not of the models and the number of files that run.json tells of."""
    models = tuple(model.name for model in manifest.models)
    judged = tuple(part.model for part in manifest.metrics)
    if len(set(models)) < len(models) or judged not in ((), models):
        raise LedgerError(
            f"Expected models of different names and metrics of each in {RUN_FILE} of {url}, found "
            f"the models {', '.join(models)[:200]} and metrics of {', '.join(judged)[:200]}.",
            f"Remove {RUN_FILE} there, and the next run puts its rows in place again.",
        )
    if (models, manifest.found) == (table.models, len(table.rows)):
        return
    raise LedgerError(
        f"Expected rows of {manifest.found} files by {', '.join(models)[:200]} in {url}, as "
        f"{RUN_FILE} says, found {len(table.rows)} by {', '.join(table.models)[:200]} in "
        f"{PARQUET_FILE}.",
        "Score the films again.",
    )


def _from_parquet(data: bytes, url: str) -> Table:
    """What a Parquet file holds."""
    try:
        return from_parquet(data)
    except ValueError as exc:
        raise LedgerError(
            f"{PARQUET_FILE} in {url} cannot be read: {exc}.",
            "Remove it to score all films anew.",
        ) from exc
