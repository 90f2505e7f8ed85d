"""Labels from CSV tables: cells that say NORMAL or PNEUMONIA, beside the key of an image."""

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
"""Of a file of labels, or of a list."""
COLUMNS = ("image", "label")
"""All that is read of a table; whatever else stands in it is skipped."""
LABEL_WORDS = {"NORMAL": "NORMAL", "0": "NORMAL", "PNEUMONIA": "PNEUMONIA", "1": "PNEUMONIA"}


def read_label_file(url: str, keys: set[str], access: AccessPolicy) -> dict[str, str]:
    """Read the label of each image that has one from a CSV file.

    Args:
        url: Where it lies.
        keys: Of all images of the run.
        access: What may be read.

    Raises:
        SourceError: It cannot be read or used.
        TransientError: Its storage does not answer.
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
        raise SourceError(f"The label file {shown} is no UTF-8: {exc.reason}.", hint) from exc
    except storage_errors() as exc:
        raise translate_error(exc, f"The label file {shown}", SourceError, "read", hint) from exc
    labels: dict[str, str] = {}
    for row, line in read_csv_table(text, url, {"image", "label"}):
        where = f"line {line} of {shown}"
        if not row:
            raise SourceError(f"The label file is no CSV table in {where}.", hint)
        image, label = row.get("image", ""), _parse_label(row.get("label"), where)
        if labels.setdefault(image, label) != label:
            raise SourceError(f"{image} has another label in {where} than before.", private=[image])
    matched = {key: label for key, label in labels.items() if key in keys}
    if labels and not matched:
        raise SourceError(
            f"None of the {len(labels)} images named in {redact_url(url)} is among the films.",
            f"The column image holds paths relative to the scored folder, such as {min(keys)}.",
            private=[min(keys)],
        )
    return matched


def read_csv_table(
    text: str, url: str, needed: set[str], unbroken: frozenset[str] = frozenset()
) -> Iterator[tuple[dict[str, str], int]]:
    """The rows of a CSV table, each with the number of the line on which it begins.

    A line that is no CSV, such as one with a quote too many, is an empty row; the next line is read
    for itself, so that an open quote swallows nothing.

    Args:
        text: The whole table.
        url: Where it lies.
        needed: Columns that it must have.
        unbroken: Columns whose cells hold no line break: two lines with a quote too many each look
            like one line with such a cell.

    Raises:
        SourceError: A needed column is not there, or one of ``COLUMNS`` is there twice.
    """
    lines = list(io.StringIO(text, newline=""))
    records = ((number, cells) for number, cells in _read_records(lines, unbroken) if cells != [])
    _, names = next(records, (0, None))
    if names is None or not needed <= set(names):
        raise SourceError(
            f"Expected the column{'s' * (len(needed) > 1)} {' and '.join(sorted(needed))} in "
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
    lines: list[str], unbroken: frozenset[str]
) -> Iterator[tuple[int, list[str] | None]]:
    """Each record and the number of its first line; None for a line that is no CSV."""
    start = 0
    columns: list[int] | None = None
    while start < len(lines):
        reader = csv.reader((lines[at] for at in range(start, len(lines))), strict=True)
        read = 0
        try:
            for cells in reader:
                if columns is None and cells:
                    columns = [at for at, name in enumerate(cells) if name in unbroken]
                if any("\n" in cell for at in columns or () for cell in cells[at : at + 1]):
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
    """NORMAL or PNEUMONIA, as a cell of a table says it.

    Raises:
        SourceError: The cell says something else.
    """
    label = LABEL_WORDS.get((word or "").strip().upper())
    if label is None:
        raise SourceError(
            f"Expected NORMAL, PNEUMONIA, 0 or 1 as label in {where}, found {word!r}.",
            private=[repr(word)],
        )
    return label
