"""The audit's findings as plain sentences, worst first. Pure functions.

The order is fixed by how far each fault can distort a result: first images on both sides of a
split, then wrong labels, then cues other than lungs, then causes of uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    format_value,
    join_words,
    sanitize_text,
)
from trainer.audit.confounders import ALL_PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.audit.audit import Audit, DuplicateFacts

MIN_PART_IMAGES = 100
MIN_SHORTCUT_AUC = 0.6
MAX_PREVALENCE_SHIFT = 0.05
NO_FINDINGS = "The audit found none of the faults that it checks for."


@dataclass(frozen=True)
class Finding:
    """One fault: a title, and a text with the facts and their consequence."""

    title: str
    text: str


def list_findings(audit: Audit) -> tuple[Finding, ...]:
    """List every fault of a data set, worst first."""
    rules = (
        _check_missing_class,
        _check_duplicates_across,
        _check_mixed_labels,
        _check_shared_patients,
        _check_unusable,
        _check_strays,
        _check_shortcut,
        _check_prevalence_shift,
        _check_small_parts,
        _check_missing_patients,
        _check_mixed_patients,
        _check_duplicates_within,
        _check_repeated_patients,
    )
    return tuple(finding for rule in rules for finding in rule(audit))


def _check_missing_class(audit: Audit) -> Iterator[Finding]:
    for part in audit.parts:
        missing = [label for label in CLASSES if not audit.count_images(part, label)]
        if len(missing) == 1:
            yield Finding(
                f"{_format_part(part)} has no image of {missing[0]}",
                "One class is not enough to train or measure a model.",
            )


def _check_duplicates_across(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        for pair, groups in facts.counts.across.items():
            yield Finding(
                f"Duplicates in both {pair}",
                f"{format_count(groups, 'group')} of images that {name} lie in both parts. "
                "An image used in training cannot test a model.",
            )


def _check_mixed_labels(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        if facts.counts.mixed_labels:
            yield Finding(
                f"{format_count(facts.counts.mixed_labels, 'image')} with two labels",
                f"Images that {name} are labelled both {CLASSES[0]} and {CLASSES[1]}. "
                "One of the two labels is wrong.",
            )


def _check_shared_patients(audit: Audit) -> Iterator[Finding]:
    for shared in audit.patients.shared:
        first, second = shared.parts
        text = (
            f"{format_count(shared.images[1], 'image')} of {second} and {shared.images[0]:,} of "
            f"{first} have a patient number that appears in both parts. They may show the same "
            "people, or the numbering may have started again."
        )
        if shared.same_cause is not None:
            same = {0: "None", shared.patients: "All"}.get(shared.same_cause, shared.same_cause)
            text += f" {same} of them have the same cause (bacteria, virus or none) in both parts."
        yield Finding(
            f"{format_count(shared.patients, 'patient number')} in both {first} and {second}", text
        )


def _check_unusable(audit: Audit) -> Iterator[Finding]:
    if audit.unusable:
        first = sanitize_text(audit.unusable[0].image)
        yield Finding(
            f"{format_count(len(audit.unusable), 'file')} cannot be used",
            f"Files in class folders that do not decode, for example {first}. "
            "Training refuses the data set until they are repaired or removed.",
        )


def _check_strays(audit: Audit) -> Iterator[Finding]:
    for stray in audit.strays:
        yield Finding(
            f"{format_count(stray.files, 'file')} without a label",
            f"{sanitize_text(stray.sentence, 200)} It is outside the class folders, so the audit "
            "ignored it.",
        )


def _check_shortcut(audit: Audit) -> Iterator[Finding]:
    found = audit.shortcut.cross_validation.get(ALL_PROPERTIES)
    if found is None or found.value is None or (found.low or 0) < MIN_SHORTCUT_AUC:
        return
    single = {
        k: v.value or 0 for k, v in audit.shortcut.cross_validation.items() if k != ALL_PROPERTIES
    }
    best = max(single, key=lambda name: single[name])
    on_test = audit.shortcut.test.get(ALL_PROPERTIES)
    yield Finding(
        f"AUC {format_value(found)} without looking at the lungs",
        f"A model that sees only {join_words(list(single))} of an image separates the classes with "
        f"AUC {format_estimate(found)}"
        + (f", on test {format_estimate(on_test)}" if on_test else "")
        + f"; {best} alone reaches {single[best]:.3f}. A network may learn these cues instead of "
        "lungs.",
    )


def _check_prevalence_shift(audit: Audit) -> Iterator[Finding]:
    shares = {
        part: audit.count_images(part, CLASSES[1])
        / sum(audit.count_images(part, label) for label in CLASSES)
        for part in audit.parts
        if any(audit.count_images(part, label) for label in CLASSES)
    }
    if len(shares) > 1 and max(shares.values()) - min(shares.values()) > MAX_PREVALENCE_SHIFT:
        listed = join_words([f"{share:.0%} of {part}" for part, share in shares.items()])
        yield Finding(
            "The parts differ in their share of pneumonia",
            f"Pneumonia makes up {listed}. Probabilities and precision measured in one part do not "
            "hold in another.",
        )


def _check_small_parts(audit: Audit) -> Iterator[Finding]:
    for part in audit.parts:
        images = sum(c.images for c in audit.counts if c.part == part)
        if images < MIN_PART_IMAGES:
            yield Finding(
                f"{_format_part(part)} has {format_count(images, 'image')}",
                "Too few to choose or measure a model: one image changes every figure by "
                f"{100 / images:.1f} points.",
            )


def _check_missing_patients(audit: Audit) -> Iterator[Finding]:
    unknown = audit.patients.images_without_patient
    if unknown:
        yield Finding(
            f"{format_count(unknown, 'image')} without a patient number",
            f"{unknown:,} of {audit.images:,} file names contain no patient number. Images of one "
            "person may lie on both sides of any split, and the audit cannot find them.",
        )


def _check_mixed_patients(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        if facts.counts.mixed_patients:
            yield Finding(
                f"{format_count(facts.counts.mixed_patients, 'image')} with two patient numbers",
                f"Images that {name} have different patient numbers. A split by number alone "
                "would put the same image on both sides.",
            )


def _check_duplicates_within(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        within = facts.counts.within
        if within:
            listed = join_words([f"{number:,} in {part}" for part, number in within.items()])
            yield Finding(
                f"{format_count(facts.counts.images, 'image')} that {name}",
                f"Groups of duplicates: {listed}. Every figure counts them more than once.",
            )


def _check_repeated_patients(audit: Audit) -> Iterator[Finding]:
    tables = audit.patients.images_per_patient.values()
    several = sum(patients for table in tables for images, patients in table.items() if images > 1)
    if several:
        yield Finding(
            f"{format_count(several, 'patient')} with several images",
            f"Up to {max(map(max, tables))} images share one patient number. They are not "
            "independent: splitting them by image makes a model look better than it is.",
        )


def _list_duplicate_kinds(audit: Audit) -> tuple[tuple[str, DuplicateFacts], ...]:
    return (("are identical", audit.identical), ("look the same", audit.near_duplicates))


def _format_part(part: str) -> str:
    return "The data set" if part == "all" else f"The part {part}"
