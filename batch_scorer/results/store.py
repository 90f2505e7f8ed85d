"""Rows on disk: predictions.csv, predictions.parquet and run.json, which is written last.

A reader sees a whole file or none, and ``run.json`` marks a finished run.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from batch_scorer.errors import OutputError
from batch_scorer.results.old_versions import decode_manifest
from batch_scorer.results.tables import decode_parquet, encode_csv, encode_parquet
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from batch_scorer.results.schema import ModelUsed, RunManifest, Score
    from batch_scorer.results.tables import ExtraColumns, Table
    from batch_scorer.storage.output import Output

CSV_FILE = "predictions.csv"
PARQUET_FILE = "predictions.parquet"
RUN_FILE = "run.json"
REPORT_FILE = "report.pdf"
REPORT_FILES = {"pdf": REPORT_FILE, "html": "report.html", "slides": "slides.pdf"}
"""The report's file by format."""
NOTES_FILE = "slides-notes.txt"
RENDERED_FILES = (*REPORT_FILES.values(), NOTES_FILE)
"""All that is drawn from a run, and goes when its rows go."""
RUN_FILES = (CSV_FILE, PARQUET_FILE, *RENDERED_FILES, RUN_FILE)
"""What a finished run may have beside its pictures, the mark of its end last."""
IMAGES_FOLDER = "films"
EVIDENCE_SUFFIX = "-evidence"
REPORT_IMAGE_NAME = rf"[0-9a-f]{{16}}(?:{EVIDENCE_SUFFIX})?"
"""What a picture's name looks like, without its ending: a film's, or its evidence map's."""
_REPORT_IMAGE_FILE = re.compile(rf"{IMAGES_FOLDER}/{REPORT_IMAGE_NAME}\.jpg")


def invalidate_run(output: Output) -> None:
    """Remove a run's marker, reports and pictures, before its rows are replaced."""
    output.remove(RUN_FILE, *RENDERED_FILES, *find_report_images(output))
    output.remove_empty_folder(IMAGES_FOLDER)


def find_report_images(output: Output) -> list[str]:
    """The files of an output whose names are those of pictures of films."""
    names = output.list_files(IMAGES_FOLDER)
    return [name for name in names if _REPORT_IMAGE_FILE.fullmatch(name)]


def thumbnail_stem(row: Score) -> str:
    """What the names of a film's pictures begin with."""
    return row.sha256[:16]


def encode_thumbnail(row: Score, picture: Image.Image) -> tuple[str, bytes]:
    """The small picture of a film, as a file: its name and its content."""
    return _encode_jpeg(thumbnail_stem(row), picture)


def encode_evidence_map(row: Score, picture: Image.Image) -> tuple[str, bytes]:
    """The evidence map of a film, as a file: its name and its content."""
    return _encode_jpeg(f"{thumbnail_stem(row)}{EVIDENCE_SUFFIX}", picture)


def _encode_jpeg(stem: str, picture: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"{IMAGES_FOLDER}/{stem}.jpg", buffer.getvalue()


def write_rows(
    output: Output,
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    config_hash: str = "",
    added: ExtraColumns | None = None,
) -> tuple[str, str]:
    """Write predictions.parquet and predictions.csv.

    Args:
        output: The folder of the run.
        rows: One per file found, in the order of the files.
        models: The first one decides.
        config_hash: The method that made the rows.
        added: Further columns by their names, a text for each row.

    Returns:
        The SHA-256 of the CSV file and of the Parquet file.

    Raises:
        LedgerError: The output cannot be written.
    """
    exact = _write_table(output, PARQUET_FILE, encode_parquet(rows, models, config_hash, added))
    return _write_table(output, CSV_FILE, encode_csv(rows, models, added)), exact


def _write_table(output: Output, name: str, data: bytes) -> str:
    """Write a table, which may be large and is given up at once; its SHA-256."""
    output.write(name, data)
    return sha256_hex(data)


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
    """A finished run as it was read back; ``extra_columns`` are columns that its writer added."""

    manifest: RunManifest
    rows: list[Score]
    extra_columns: dict[str, list[str]]


def read_run(output: Output) -> FinishedRun:
    """Read a finished run back.

    Raises:
        LedgerError: There is no finished run, or its files do not belong together.
    """
    manifest = read_manifest(output)
    cells, exact = (output.read(name, MAX_TABLE_READ_BYTES) for name in (CSV_FILE, PARQUET_FILE))
    if manifest is None or cells is None or exact is None:
        missing = RUN_FILE if manifest is None else CSV_FILE if cells is None else PARQUET_FILE
        raise OutputError(
            f"Expected a finished run in {output.url}, found no {missing}.",
            f"Make one with: cxr score IMAGES -o {output.url}",
        )
    for name, data, sha256 in (
        (CSV_FILE, cells, manifest.rows_sha256),
        (PARQUET_FILE, exact, manifest.parquet_sha256),
    ):
        if sha256_hex(data) != sha256:
            raise OutputError(
                f"{name} in {output.url} was changed after the run ended.", "Score the films again."
            )
    table = _decode_parquet(exact, output.url)
    _check_consistent(manifest, table, output.url)
    return FinishedRun(manifest, table.rows, table.extra_columns)


def read_rows(output: Output, config_hash: str) -> list[Score]:
    """The rows of a run by this method, whether it finished or was stopped while it ended.

    Raises:
        LedgerError: The Parquet file is damaged.
    """
    data = output.read(PARQUET_FILE, MAX_TABLE_READ_BYTES)
    if data is None:
        return []
    table = _decode_parquet(data, output.url)
    return table.rows if table.config_hash == config_hash else []


def _check_consistent(manifest: RunManifest, table: Table, url: str) -> None:
    """Refuse rows that are not of the models and the number of files that run.json tells of."""
    models = tuple(model.name for model in manifest.models)
    judged = tuple(part.model for part in manifest.metrics)
    if len(set(models)) < len(models) or judged not in ((), models):
        raise OutputError(
            f"Expected models of different names and metrics of each in {RUN_FILE} of {url}, found "
            f"the models {', '.join(models)[:200]} and metrics of {', '.join(judged)[:200]}.",
            f"Remove {RUN_FILE} there, and the next run puts its rows in place again.",
        )
    if (models, manifest.found) == (table.models, len(table.rows)):
        return
    raise OutputError(
        f"Expected rows of {manifest.found} files by {', '.join(models)[:200]} in {url}, as "
        f"{RUN_FILE} says, found {len(table.rows)} by {', '.join(table.models)[:200]} in "
        f"{PARQUET_FILE}.",
        "Score the films again.",
    )


def _decode_parquet(data: bytes, url: str) -> Table:
    """What a Parquet file holds."""
    try:
        return decode_parquet(data)
    except ValueError as exc:
        raise OutputError(
            f"{PARQUET_FILE} in {url} cannot be read: {exc}.",
            "Remove it to score all films anew.",
        ) from exc
