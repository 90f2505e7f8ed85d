"""Labels from CSV tables: NORMAL or PNEUMONIA for each image key."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from batch_scorer.errors import SourceError
from batch_scorer.storage.access import raise_as_run_error
from batch_scorer.storage.filesystem import call_with_retries, open_filesystem, read_file
from batch_scorer.storage.retry import storage_errors, translate_error
from batch_scorer.system.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_scorer.storage.access import AccessPolicy

MAX_TABLE_BYTES = 100_000_000
"""Limit for a label file or an image list."""
COLUMNS = ("image", "label")
"""The columns that are read; all others are skipped."""
LABEL_WORDS = {"NORMAL": "NORMAL", "0": "NORMAL", "PNEUMONIA": "PNEUMONIA", "1": "PNEUMONIA"}


def read_label_file(url: str, keys: set[str], access: AccessPolicy) -> dict[str, str]:
    """Read the label of each image that has one from a CSV file.

    Args:
        url: Path or URL of the file.
        keys: The keys of all images of the run.
        access: Permissions of the run.

    Returns:
        The labels by key.

    Raises:
        SourceError: It cannot be read or used.
        TransientError: Its storage does not respond.
    """
    hint = "--labels takes folders, none, or a CSV file with the columns image and label."
    shown = redact_url(url)
    filesystem, path = open_filesystem(url, access)
    try:
        with raise_as_run_error():
            text = call_with_retries(read_file, filesystem, path, MAX_TABLE_BYTES).decode(
                "utf-8-sig"
            )
    except UnicodeDecodeError as exc:
        raise SourceError(
            f"Expected UTF-8 in the label file {shown}, found other bytes: {exc.reason}.", hint
        ) from exc
    except storage_errors() as exc:
        raise translate_error(exc, f"The label file {shown}", SourceError, "read", hint) from exc
    labels: dict[str, str] = {}
    for row, line in read_csv_table(text, url, {"image", "label"}):
        where = f"line {line} of {shown}"
        if not row:
            raise SourceError(f"Expected a CSV row in {where}, found other text.", hint)
        image, label = row.get("image", ""), _parse_label(row.get("label"), where)
        if labels.setdefault(image, label) != label:
            raise SourceError(
                f"Expected one label for {image}, found another one in {where}.",
                "Remove one of the two lines.",
                [image],
            )
    matched = {key: label for key, label in labels.items() if key in keys}
    if labels and not matched:
        raise SourceError(
            f"None of the {len(labels)} images named in {redact_url(url)} was found.",
            f"The column image takes paths relative to the scored folder, such as {min(keys)}.",
            private=[min(keys)],
        )
    return matched


def read_csv_table(
    text: str,
    url: str,
    required_columns: set[str],
    single_line_columns: frozenset[str] = frozenset(),
) -> Iterator[tuple[dict[str, str], int]]:
    """Yield the rows of a CSV table, each with the number of its first line.

    A line that is not CSV, such as one with an extra quote, gives an empty row. The next line is
    parsed on its own, so that an open quote swallows no further lines.

    Args:
        text: The whole table.
        url: Its path or URL, for errors.
        required_columns: Columns that the table must have.
        single_line_columns: Columns whose cells hold no line break. Without them, two lines with
            an extra quote each would look like one line with such a cell.

    Raises:
        SourceError: A required column is missing, or one of ``COLUMNS`` occurs twice.
    """
    lines = list(io.StringIO(text, newline=""))
    records = (
        (number, cells)
        for number, cells in _read_records(lines, single_line_columns)
        if cells != []
    )
    _, names = next(records, (0, None))
    if names is None or not required_columns <= set(names):
        plural = "s" * (len(required_columns) > 1)
        raise SourceError(
            f"Expected the column{plural} {' and '.join(sorted(required_columns))} in "
            f"{redact_url(url)}, found {names}.",
            "Save the table as CSV with commas, in UTF-8.",
            private=[str(names)],
        )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise SourceError(
            f"Expected one column {twice[0]} in {redact_url(url)}, found {names.count(twice[0])}.",
            "Remove or rename all but one of them.",
        )
    for number, cells in records:
        yield dict(zip(names, cells or (), strict=False)), number


def _read_records(
    lines: list[str], single_line_columns: frozenset[str]
) -> Iterator[tuple[int, list[str] | None]]:
    """Yield each record's first line number and its cells; None for a line that is not CSV."""
    start = 0
    columns: list[int] | None = None
    while start < len(lines):
        reader = csv.reader((lines[i] for i in range(start, len(lines))), strict=True)
        read = 0
        try:
            for cells in reader:
                if columns is None and cells:
                    columns = [
                        index for index, name in enumerate(cells) if name in single_line_columns
                    ]
                if any("\n" in cell for i in columns or () for cell in cells[i : i + 1]):
                    break
                yield start + read + 1, cells
                read = reader.line_num
            else:
                return
        except csv.Error:
            pass
        yield start + read + 1, None
        start += read + 1


def _parse_label(word: str | None, where: str) -> str:
    """Return NORMAL or PNEUMONIA for a cell of a table.

    Raises:
        SourceError: The cell holds something else.
    """
    label = LABEL_WORDS.get((word or "").strip().upper())
    if label is None:
        raise SourceError(
            f"Expected NORMAL, PNEUMONIA, 0 or 1 as label in {where}, found {word!r}.",
            "Correct that line.",
            [repr(word)],
        )
    return label
