"""The faults of the training data, as the model card counts them. Pure functions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_scorer.model.card_sections import DataAudit, DuplicateCounts

MIN_PART_IMAGES = 100


def describe_data_faults(audit: DataAudit) -> tuple[str, ...]:
    """Describe each fault that the audit of a data set found, in one or two sentences."""
    parts = (
        _describe_small_parts,
        _describe_patients,
        _describe_shared_patients,
        _describe_duplicates,
        _describe_metadata_auc,
        _describe_appearance,
    )
    return tuple(sanitize_text(text, 600) for part in parts for text in part(audit))


def _describe_small_parts(audit: DataAudit) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for key, number in audit.images.items():
        counts[key.split(" ", 1)[0]] += number
    for part, number in counts.items():
        if part != "all" and number < MIN_PART_IMAGES:
            images = format_count(number, "film")
            yield f"The part {part} has {images}, too few to choose anything on."


def _describe_patients(audit: DataAudit) -> Iterator[str]:
    several = {int(images): n for images, n in audit.images_per_patient.items() if images != "1"}
    if several:
        yield (
            f"{sum(several.values()):,} of {format_count(audit.patients, 'patient')} have several "
            f"films, up to {max(several)}. These are not independent: split by film, they make a "
            "model look better than it is."
        )
    if audit.images_without_patient:
        yield (
            f"{audit.images_without_patient:,} of {sum(audit.images.values()):,} file names tell "
            "no patient: films of one person may lie on both sides of a split."
        )


def _describe_shared_patients(audit: DataAudit) -> Iterator[str]:
    for parts, number in audit.shared_patients.items():
        text = (
            f"The parts {parts} have {format_count(number, 'patient number')} in common. Whether "
            "they are the same people is not known: the numbering may have started again."
        )
        same = audit.shared_with_same_cause.get(parts)
        if same is not None:
            some = {0: "none", number: "all"}.get(same, f"{same:,}")
            text += f" With the same cause (bacteria, virus or none) in both: {some} of them."
        yield text


def _describe_duplicates(audit: DataAudit) -> Iterator[str]:
    for kind, counts in (
        ("identical", audit.identical),
        ("nearly identical", audit.near_duplicates),
    ):
        if counts.groups:
            yield f"{_format_duplicate_counts(counts, kind)}."


def _format_duplicate_counts(counts: DuplicateCounts, kind: str) -> str:
    across = [f"{number:,} across {pair}" for pair, number in counts.across.items()]
    phrases = [
        f"{format_count(counts.images, 'film')} are {kind} to another, "
        f"in {format_count(counts.groups, 'group')}",
        join_words(across) if across else "none across the parts of the set",
    ]
    if counts.mixed_labels:
        phrases.append(f"{counts.mixed_labels:,} with two different labels")
    if counts.mixed_patients:
        phrases.append(f"{counts.mixed_patients:,} under two patient numbers")
    return ", ".join(phrases)


def _describe_metadata_auc(audit: DataAudit) -> Iterator[str]:
    found = {
        "cross-validated by patient": audit.metadata_auc.get("cross-validation"),
        "on the test films": audit.metadata_auc.get("test"),
    }
    phrases = [
        f"{format_estimate(value)} {how}" for how, value in found.items() if value is not None
    ]
    if phrases:
        yield (
            "A rule that knows only a film's size, brightness, contrast and file size, and no "
            f"place in it, has an AUC of {join_words(phrases)}. As much of a model's AUC may need "
            "no look at the lungs; file size and contrast do follow the detail that a film shows."
        )


def _describe_appearance(audit: DataAudit) -> Iterator[str]:
    """Compare the two classes by their medians, in the first part that has both."""
    for part in dict.fromkeys(statistics.part for statistics in audit.appearance):
        of_class = {
            statistics.label: statistics
            for statistics in audit.appearance
            if statistics.part == part
        }
        if set(of_class) == set(CLASSES):
            phrases = [
                f"{of_class[label].width_px:.0f} by {of_class[label].height_px:.0f} pixels, "
                f"brightness {of_class[label].brightness:.0f} and contrast "
                f"{of_class[label].contrast:.0f}"
                for label in CLASSES
            ]
            where = "" if part == "all" else f" in {part}"
            yield (
                f"The median normal film{where} has {phrases[0]} (grey levels of 255), the median "
                f"film with pneumonia {phrases[1]}."
            )
            return
