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
"""Files drawn from a run, removed together with its rows."""
RUN_FILES = (CSV_FILE, PARQUET_FILE, *RENDERED_FILES, RUN_FILE)
"""Files of a finished run other than its images, the commit marker last."""
IMAGES_FOLDER = "films"
EVIDENCE_SUFFIX = "-evidence"
REPORT_IMAGE_NAME = rf"[0-9a-f]{{16}}(?:{EVIDENCE_SUFFIX})?"
"""Pattern of a report image's name without its suffix: a thumbnail or an evidence map."""
_REPORT_IMAGE_FILE = re.compile(rf"{IMAGES_FOLDER}/{REPORT_IMAGE_NAME}\.jpg")


def invalidate_run(output: Output) -> None:
    """Remove a run's marker, reports and images, before its rows are replaced."""
    output.remove(RUN_FILE, *RENDERED_FILES, *find_report_images(output))
    output.remove_empty_folder(IMAGES_FOLDER)


def find_report_images(output: Output) -> list[str]:
    """Find the files of an output that are named like report images."""
    names = output.list_files(IMAGES_FOLDER)
    return [name for name in names if _REPORT_IMAGE_FILE.fullmatch(name)]


def thumbnail_stem(row: Score) -> str:
    """Return the first part of the names of an image's thumbnail and evidence map."""
    return row.sha256[:16]


def encode_thumbnail(row: Score, image: Image.Image) -> tuple[str, bytes]:
    """Encode the thumbnail of an image; return the name and content of its file."""
    return _encode_jpeg(thumbnail_stem(row), image)


def encode_evidence_map(row: Score, image: Image.Image) -> tuple[str, bytes]:
    """Encode the evidence map of an image; return the name and content of its file."""
    return _encode_jpeg(f"{thumbnail_stem(row)}{EVIDENCE_SUFFIX}", image)


def _encode_jpeg(stem: str, image: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"{IMAGES_FOLDER}/{stem}.jpg", buffer.getvalue()


def write_rows(
    output: Output,
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    config_hash: str = "",
    extra_columns: ExtraColumns | None = None,
) -> tuple[str, str]:
    """Write predictions.parquet and predictions.csv.

    Args:
        output: The output of the run.
        rows: One per file found, in the order of the files.
        models: The models of the run; the first one decides.
        config_hash: Hash of the configuration that made the rows.
        extra_columns: Further columns by name, with a text for each row.

    Returns:
        The SHA-256 of the CSV file and of the Parquet file.

    Raises:
        OutputError: The output cannot be written.
    """
    parquet = encode_parquet(rows, models, config_hash, extra_columns)
    parquet_sha256 = _write_table(output, PARQUET_FILE, parquet)
    del parquet  # free it before the CSV is encoded: both may be large
    csv_sha256 = _write_table(output, CSV_FILE, encode_csv(rows, models, extra_columns))
    return csv_sha256, parquet_sha256


def _write_table(output: Output, name: str, data: bytes) -> str:
    """Write a table and return its SHA-256."""
    output.write(name, data)
    return sha256_hex(data)


def write_manifest(output: Output, manifest: RunManifest) -> None:
    """Write run.json, the commit marker of a finished run."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    output.write(RUN_FILE, data + b"\n")


def read_manifest(output: Output) -> RunManifest | None:
    """Read run.json; None if no run has finished in the output.

    Raises:
        OutputError: The file exists but is not a valid run.json.
    """
    data = output.read(RUN_FILE)
    if data is None:
        return None
    return decode_manifest(
        data,
        f"The run in {output.url}",
        f"Remove {RUN_FILE} there, and the next run writes its rows again.",
    )


class FinishedRun(NamedTuple):
    """A finished run, read back; ``extra_columns`` holds the columns beside those of a row."""

    manifest: RunManifest
    rows: list[Score]
    extra_columns: dict[str, list[str]]


def read_run(output: Output) -> FinishedRun:
    """Read a finished run.

    Raises:
        OutputError: There is no finished run, or its files do not match.
    """
    manifest = read_manifest(output)
    csv_data, parquet = (
        output.read(name, MAX_TABLE_READ_BYTES) for name in (CSV_FILE, PARQUET_FILE)
    )
    if manifest is None or csv_data is None or parquet is None:
        missing = RUN_FILE if manifest is None else CSV_FILE if csv_data is None else PARQUET_FILE
        raise OutputError(
            f"Expected a finished run in {output.url}, found no {missing}.",
            f"Make one with: cxr score IMAGES -o {output.url}",
        )
    for name, data, sha256 in (
        (CSV_FILE, csv_data, manifest.rows_sha256),
        (PARQUET_FILE, parquet, manifest.parquet_sha256),
    ):
        if sha256_hex(data) != sha256:
            raise OutputError(
                f"{name} in {output.url} was changed after the run ended.",
                "Score the images again.",
            )
    table = _decode_parquet(parquet, output.url)
    _check_consistent(manifest, table, output.url)
    return FinishedRun(manifest, table.rows, table.extra_columns)


def read_rows(output: Output, config_hash: str) -> list[Score]:
    """Read the rows of a run with this configuration, committed or not; else none.

    Raises:
        OutputError: The Parquet file is damaged.
    """
    data = output.read(PARQUET_FILE, MAX_TABLE_READ_BYTES)
    if data is None:
        return []
    table = _decode_parquet(data, output.url)
    return table.rows if table.config_hash == config_hash else []


def _check_consistent(manifest: RunManifest, table: Table, url: str) -> None:
    """Refuse rows that contradict the models and the number of files in run.json."""
    models = tuple(model.name for model in manifest.models)
    measured = tuple(part.model for part in manifest.metrics)
    if len(set(models)) < len(models) or measured not in ((), models):
        raise OutputError(
            f"Expected models of different names and metrics of each in {RUN_FILE} of {url}, found "
            f"the models {', '.join(models)[:200]} and metrics of {', '.join(measured)[:200]}.",
            f"Remove {RUN_FILE} there, and the next run writes its rows again.",
        )
    if (models, manifest.found) == (table.models, len(table.rows)):
        return
    raise OutputError(
        f"Expected rows of {manifest.found} files by {', '.join(models)[:200]} in {url}, as "
        f"{RUN_FILE} says, found {len(table.rows)} by {', '.join(table.models)[:200]} in "
        f"{PARQUET_FILE}.",
        "Score the images again.",
    )


def _decode_parquet(data: bytes, url: str) -> Table:
    """Decode a Parquet file.

    Raises:
        OutputError: It is damaged, or another file.
    """
    try:
        return decode_parquet(data)
    except ValueError as exc:
        raise OutputError(
            f"{PARQUET_FILE} in {url} cannot be read: {exc}.",
            "Remove it to score all images again.",
        ) from exc
