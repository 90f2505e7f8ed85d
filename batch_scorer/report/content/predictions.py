"""Files not scored, and the table of all predictions. Pure functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.text import (
    format_count,
    format_probability,
    format_threshold,
    format_title,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import ModelUsed, RunManifest, Score

MAX_UNSCORED_ROWS = 200
MAX_PREDICTION_ROWS = 2_000
STATEMENTS_FILE = "statements.json"
ATTACHMENT_DESCRIPTIONS = {
    "predictions.csv": "All predictions: one row per file found.",
    "run.json": "The run: its counts, its models with their cards, its options and versions.",
    STATEMENTS_FILE: "The sentences of page 1 that state numbers, for cxr verify.",
}
"""The files attached to the PDF, each with its description in a reader's list."""
REASON_TEXTS = {
    "unreadable": ("Could not be read", "Copy the file again from where it came from."),
    "truncated": ("Ends too early", "Copy the file again; part of it is missing."),
    "model_output_invalid": ("A model gave no valid probability", "Score it with another model."),
    "unsupported": ("Not a format that is read", "Convert it to JPEG, PNG or DICOM."),
    "too_large": ("Too many pixels to open safely", "Save it at a smaller size."),
    "too_small": ("Too few pixels to judge", "Find the film at its original size."),
    "not_radiograph": ("Not a single plain radiograph", "Leave it out, or send the film alone."),
    "not_allowed": ("Lies where the run may not read", "Allow it with --list-root FOLDER."),
}


@dataclass(frozen=True)
class ReasonCount:
    """One reason for not scoring, and the number of files it applies to."""

    label: str
    advice: str
    files: str


@dataclass(frozen=True)
class UnscoredRow:
    """One file that was not scored."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class UnscoredFiles:
    """The files that were not scored: counts by reason, and at most ``MAX_UNSCORED_ROWS`` names."""

    about: str
    reasons: tuple[ReasonCount, ...]
    files: tuple[UnscoredRow, ...]
    rest: str


@dataclass(frozen=True)
class PredictionRow:
    """One row of the table of all predictions. ``probabilities`` has one text per model."""

    name: str
    prediction: str
    flagged: bool
    probabilities: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class PredictionListing:
    """The table of all predictions, up to ``MAX_PREDICTION_ROWS`` rows."""

    models: tuple[str, ...]
    labelled: bool
    rows: tuple[PredictionRow, ...]
    about: str
    rest: str


def format_prediction(row: Score) -> str:
    """Format the first model's prediction, such as "Flagged, uncertain" or "Not scored"."""
    scored = row.status == "scored"
    flagged = row.prediction == CLASSES[1]
    text = ("Flagged" if flagged else "Clear") if scored else "Not scored"
    if row.undecided:
        text += ", uncertain"
    if row.atypical and scored:
        text += ", atypical"
    if row.duplicate_of:
        text += ", copy"
    return text


def describe_reason(code: str) -> str:
    """Say why a file was not scored."""
    return _find_reason_text(code)[0]


def describe_unscored(view: RunView) -> UnscoredFiles:
    """Describe the files that were not scored, with counts by reason."""
    unscored = [row for row in view.rows if row.status != "scored"]
    return UnscoredFiles(
        about=_describe_unscored_counts(view.manifest),
        reasons=_count_reasons(unscored),
        files=tuple(_make_unscored_row(row) for row in unscored[:MAX_UNSCORED_ROWS]),
        rest=_describe_rest(len(unscored), MAX_UNSCORED_ROWS, "named"),
    )


def describe_listing(view: RunView) -> PredictionListing:
    """Build the table of all predictions."""
    models, rows = view.manifest.models, view.rows
    return PredictionListing(
        models=tuple(sanitize_text(model.name, 24) for model in models),
        labelled=any(row.label for row in rows),
        rows=tuple(_make_prediction_row(row, models) for row in rows[:MAX_PREDICTION_ROWS]),
        about=_describe_columns(view),
        rest=_describe_rest(len(rows), MAX_PREDICTION_ROWS, "listed"),
    )


def _describe_unscored_counts(manifest: RunManifest) -> str:
    if not manifest.found:
        return "No file was found."
    if not manifest.not_scored:
        return "Every file was scored."
    verb = "was" if manifest.not_scored == 1 else "were"
    text = f"{manifest.not_scored:,} of {format_count(manifest.found, 'file')} {verb} not scored: "
    parts = []
    if manifest.failed:
        parts.append(f"{manifest.failed:,} could not be read")
    if manifest.rejected:
        parts.append(f"{manifest.rejected:,} could be read but not judged")
    return f"{text}{join_words(parts)}. Nothing is known about what these files show."


def _count_reasons(unscored: Sequence[Score]) -> tuple[ReasonCount, ...]:
    return tuple(
        ReasonCount(*_find_reason_text(code), files=f"{number:,}")
        for code, number in sorted(
            Counter(row.reason for row in unscored).items(), key=lambda item: (-item[1], item[0])
        )
    )


def _find_reason_text(code: str) -> tuple[str, str]:
    return REASON_TEXTS.get(code, (sanitize_text(code, 60) or "No reason given", ""))


def _make_unscored_row(row: Score) -> UnscoredRow:
    return UnscoredRow(
        sanitize_text(row.image), describe_reason(row.reason), sanitize_text(row.detail, 240)
    )


def _describe_rest(n_rows: int, max_rows: int, verb: str) -> str:
    if n_rows <= max_rows:
        return ""
    return (
        f"The first {max_rows:,} of {n_rows:,} files are {verb} here; continued in predictions.csv."
    )


def _describe_columns(view: RunView) -> str:
    if not view.manifest.found:
        return "There is no file to list."
    text = (
        "Each number is a probability of pneumonia, one column per model. "
        f"A film is flagged at {format_threshold(view.model.threshold)} or more, by "
        f"{format_title(view.card)}. Numbers are rounded for print; "
        "predictions.csv has them in full."
    )
    if band := view.card.band:
        text += (
            f" From {format_threshold(band.low)} up to {format_threshold(band.high)} its answer is "
            "uncertain."
        )
    if others := view.manifest.models[1:]:
        thresholds = join_words(
            [f"{sanitize_text(m.name, 24)} {format_threshold(m.threshold)}" for m in others]
        )
        text += f" The other models have thresholds of their own: {thresholds}."
    return text


def _make_prediction_row(row: Score, models: Sequence[ModelUsed]) -> PredictionRow:
    scored = row.status == "scored"
    probabilities = tuple(
        format_probability(p, model.threshold)
        for p, model in zip(row.probabilities, models, strict=scored)
    )
    return PredictionRow(
        name=sanitize_text(row.image, 90),
        prediction=format_prediction(row),
        flagged=row.prediction == CLASSES[1],
        probabilities=probabilities or ("",) * len(models),
        label=row.label.capitalize(),
    )
