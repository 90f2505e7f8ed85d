"""Every row of a run as a table that a page can sort, filter and open. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.changes import format_earlier_run
from batch_scorer.report.content.predictions import describe_reason, format_prediction
from batch_scorer.report.content.text import format_likelihood, format_probability, sanitize_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import RunManifest, Score

TableCell = str | tuple[str, float]
"""A text, or a text with its sort key."""
ALL_FILES = "All files"
MAX_NAME_CHARS = 4_096
"""No file system allows longer names."""
NUMERIC_COLUMNS = ("Models apart", "Typicality")
NORMAL, PNEUMONIA = CLASSES


class TableRow(msgspec.Struct, frozen=True, array_like=True):
    """One file: a cell per column, the indices of its groups, and the stem of its thumbnail."""

    cells: tuple[TableCell, ...]
    groups: tuple[int, ...]
    flagged: bool
    thumbnail: str


@dataclass(frozen=True)
class Column:
    """One field of every file. ``title`` is empty for a field that only the detail view shows."""

    title: str
    full_title: str
    is_numeric: bool = False


@dataclass(frozen=True)
class RowGroup:
    """Files that a reader can filter by."""

    title: str
    files: int


@dataclass(frozen=True)
class PredictionTable:
    """All rows of a run."""

    columns: tuple[Column, ...]
    groups: tuple[RowGroup, ...]
    rows: tuple[TableRow, ...]


_ROW_GROUPS: tuple[tuple[str, Callable[[Score], bool]], ...] = (
    (ALL_FILES, lambda _: True),
    ("Flagged", lambda row: row.prediction == PNEUMONIA),
    ("Clear", lambda row: row.status == "scored" and row.prediction != PNEUMONIA),
    ("Not scored", lambda row: row.status != "scored"),
    ("Uncertain", lambda row: bool(row.undecided)),
    ("Atypical", lambda row: bool(row.atypical) and row.status == "scored"),
    ("Models disagree", lambda row: row.agreement is not None and row.agreement < 1),
    ("Exact copies", lambda row: bool(row.duplicate_of)),
    (
        "Missed: labelled pneumonia, not flagged",
        lambda row: row.label == PNEUMONIA and row.prediction == NORMAL,
    ),
    (
        "False alarms: labelled normal, flagged",
        lambda row: row.label == NORMAL and row.prediction == PNEUMONIA,
    ),
)


def build_table(view: RunView) -> PredictionTable:
    """Build the table of all rows, without patients and without empty columns and groups."""
    rows, manifest = view.rows, view.manifest
    run_dates = {row.image: date for row, date in zip(rows, view.dates, strict=bool(view.dates))}
    filled = [
        (column, [read(row) for row in rows])
        for column, read in _define_columns(manifest, run_dates)
    ]
    kept = [filled[0], *((column, cells) for column, cells in filled[1:] if any(cells))]
    tests = [*_ROW_GROUPS, *_make_new_group(manifest, run_dates)]
    members = [[test(row) for row in rows] for _, test in tests]
    groups = [
        (RowGroup(title, sum(is_member)), is_member)
        for (title, _), is_member in zip(tests, members, strict=True)
        if title == ALL_FILES or any(is_member)
    ]
    return PredictionTable(
        columns=tuple(column for column, _ in kept),
        groups=tuple(group for group, _ in groups),
        rows=tuple(
            TableRow(
                cells=tuple(cells[index] for _, cells in kept),
                groups=tuple(n for n, (_, is_member) in enumerate(groups) if is_member[index]),
                flagged=row.prediction == PNEUMONIA,
                thumbnail=row.sha256[:16],
            )
            for index, row in enumerate(rows)
        ),
    )


def _make_new_group(
    manifest: RunManifest, run_dates: Mapping[str, str]
) -> Iterable[tuple[str, Callable[[Score], bool]]]:
    """Yield the group of files that are new in a scheduled run."""
    if manifest.changes:
        title = f"New since {format_earlier_run(manifest.changes)}"
        yield title, lambda row: run_dates.get(row.image) == manifest.run_date


def _define_columns(
    manifest: RunManifest, run_dates: Mapping[str, str]
) -> Iterable[tuple[Column, Callable[[Score], TableCell]]]:
    """Yield each column with a function that reads its cell from a row."""
    yield Column("File", "File"), lambda row: sanitize_text(row.image, MAX_NAME_CHARS)
    yield Column("Answer", "Answer"), _make_prediction_cell
    for index, model in enumerate(manifest.models):
        name = sanitize_text(model.name, 24)
        column = Column(name, f"Probability by {name}", is_numeric=True)
        yield column, _make_probability_reader(index, model.threshold)
    n_models = len(manifest.models)
    rest: tuple[tuple[str, str, Callable[[Score], TableCell]], ...] = (
        ("Models apart", "Models apart by", lambda row: _make_number_cell(row.spread)),
        ("Typicality", "Typicality", lambda row: _make_number_cell(row.typicality)),
        ("Label", "Label", lambda row: row.label.capitalize()),
        ("Why not scored", "Why not scored", _format_reason),
        ("", "What was found", lambda row: sanitize_text(row.detail, 400)),
        ("", "Pneumonia, in words", _format_likelihood),
        ("", "Models that agree", lambda row: _format_agreement(row, n_models)),
        ("", "Viral, if it is pneumonia", lambda row: _make_number_cell(row.viral)),
        ("", "Exact copy of", lambda row: sanitize_text(row.duplicate_of, MAX_NAME_CHARS)),
        ("", "Size in pixels", _format_size),
        ("", "First seen in the night", lambda row: run_dates.get(row.image, "")),
        ("", "Hash of the file", lambda row: row.sha256),
    )
    for title, full_title, read in rest:
        yield Column(title, full_title, is_numeric=title in NUMERIC_COLUMNS), read


def _make_prediction_cell(row: Score) -> TableCell:
    """Return the prediction and its sort key: flagged first, not scored last."""
    rank = 2 if row.status != "scored" else int(row.prediction != PNEUMONIA)
    return format_prediction(row), rank


def _make_probability_reader(index: int, threshold: float) -> Callable[[Score], TableCell]:
    def read(row: Score) -> TableCell:
        if row.status != "scored":
            return ""
        value = row.probabilities[index]
        return format_probability(value, threshold), round(value, 6)

    return read


def _make_number_cell(value: float | None) -> TableCell:
    return "" if value is None else (f"{value:.2f}", round(value, 6))


def _format_reason(row: Score) -> str:
    return "" if row.status == "scored" else describe_reason(row.reason)


def _format_likelihood(row: Score) -> str:
    return format_likelihood(row.probability) if row.status == "scored" else ""


def _format_agreement(row: Score, n_models: int) -> str:
    if row.agreement is None or n_models == 1:
        return ""
    return f"{round(row.agreement * n_models)} of {n_models}"


def _format_size(row: Score) -> str:
    if row.width_px is None or row.height_px is None:
        return ""
    return f"{row.width_px:,} by {row.height_px:,}"
