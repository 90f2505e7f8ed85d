"""What is wrong with the data that a model learned from, as its card counts it. Pure functions."""

from __future__ import annotations

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
    """One sentence or two for each fault that the audit of a data set found."""
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
    films: dict[str, int] = {}
    for key, number in audit.images.items():
        part = key.split(" ", 1)[0]
        films[part] = films.get(part, 0) + number
    for part, number in films.items():
        if part != "all" and number < MIN_PART_IMAGES:
            yield f"The part {part} has {format_count(number, 'film')}, too few to choose anything on."


def _describe_patients(audit: DataAudit) -> Iterator[str]:
    several = {int(films): n for films, n in audit.images_per_patient.items() if films != "1"}
    if several:
        yield (
            f"{sum(several.values()):,} of {format_count(audit.patients, 'patient')} have several films, "
            f"up to {max(several)}. These are not independent: split by film, they make a model "
            "look better than it is."
        )
    if audit.images_without_patient:
        yield (
            f"{audit.images_without_patient:,} of {sum(audit.images.values()):,} file names tell no "
            "patient: films of one person may lie on both sides of a split."
        )


def _describe_shared_patients(audit: DataAudit) -> Iterator[str]:
    for parts, number in audit.shared_patients.items():
        text = (
            f"The parts {parts} have {format_count(number, 'patient number')} in common. Whether they are "
            "the same people is not known: the numbering may have started again."
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
    told = [
        f"{format_count(counts.images, 'film')} are {kind} to another, in {format_count(counts.groups, 'group')}",
        join_words(across) if across else "none across the parts of the set",
    ]
    if counts.mixed_labels:
        told.append(f"{counts.mixed_labels:,} with two different labels")
    if counts.mixed_patients:
        told.append(f"{counts.mixed_patients:,} under two patient numbers")
    return ", ".join(told)


def _describe_metadata_auc(audit: DataAudit) -> Iterator[str]:
    found = {
        "cross-validated by patient": audit.metadata_auc.get("cross-validation"),
        "on the test films": audit.metadata_auc.get("test"),
    }
    told = [f"{format_estimate(value)} {how}" for how, value in found.items() if value is not None]
    if told:
        yield (
            "A rule that knows only a film's size, brightness, contrast and file size, and no "
            f"place in it, has an AUC of {join_words(told)}. As much of a model's AUC may need no "
            "look at the lungs; file size and contrast do follow the detail that a film shows."
        )


def _describe_appearance(audit: DataAudit) -> Iterator[str]:
    """The first part that has both classes, in medians."""
    for part in dict.fromkeys(looks.part for looks in audit.appearance):
        of_class = {looks.label: looks for looks in audit.appearance if looks.part == part}
        if set(of_class) == set(CLASSES):
            told = [
                f"{of_class[label].width_px:.0f} by {of_class[label].height_px:.0f} pixels, "
                f"brightness {of_class[label].brightness:.0f} and contrast "
                f"{of_class[label].contrast:.0f}"
                for label in CLASSES
            ]
            where = "" if part == "all" else f" in {part}"
            yield (
                f"The median normal film{where} has {told[0]} (grey levels of 255), the median "
                f"film with pneumonia {told[1]}."
            )
            return
