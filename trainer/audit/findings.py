"""What the audit found, in plain sentences, worst first. Pure functions.

The order is fixed, by how far each fault can carry a figure away from the truth: images that lie on
both sides of a split come first, then wrong labels, then what a network may learn instead of lungs,
then what makes a figure less certain.
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
NO_FINDINGS = "Nothing wrong was found of what is looked for here."


@dataclass(frozen=True)
class Finding:
    """One fault: a title, what was found, and what follows from it."""

    title: str
    text: str


def list_findings(audit: Audit) -> tuple[Finding, ...]:
    """Every fault of a data set, worst first."""
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
                f"{_format_part(part)} has no film of {missing[0]}",
                "Nothing can be learned or measured with one class.",
            )


def _check_duplicates_across(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        for pair, groups in facts.counts.across.items():
            yield Finding(
                f"Copies in both {pair}",
                f"Films that {name} lie on both sides ({format_count(groups, 'group')}): what was seen in "
                "training is no test.",
            )


def _check_mixed_labels(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        if facts.counts.mixed_labels:
            yield Finding(
                f"{format_count(facts.counts.mixed_labels, 'film')} with two labels",
                f"Films that {name} are labelled {CLASSES[0]} as well as {CLASSES[1]}: one of the "
                "two is wrong.",
            )


def _check_shared_patients(audit: Audit) -> Iterator[Finding]:
    for shared in audit.patients.shared:
        first, second = shared.parts
        text = (
            f"{format_count(shared.images[1], 'film')} of {second} and {shared.images[0]:,} of {first} bear "
            "a number that both have. Whether they are the same people is not known: the numbering "
            "may have started again."
        )
        if shared.same_cause is not None:
            some = {0: "none", shared.patients: "all"}.get(shared.same_cause, shared.same_cause)
            text += f" With the same cause (bacteria, virus or none) in both: {some} of them."
        yield Finding(
            f"{format_count(shared.patients, 'patient number')} in both {first} and {second}", text
        )


def _check_unusable(audit: Audit) -> Iterator[Finding]:
    if audit.unusable:
        first = sanitize_text(audit.unusable[0].image)
        yield Finding(
            f"{format_count(len(audit.unusable), 'file')} cannot be used",
            f"In a class folder, but not to be decoded: for example {first}. "
            "Training refuses the set until that is mended or removed.",
        )


def _check_strays(audit: Audit) -> Iterator[Finding]:
    for stray in audit.strays:
        yield Finding(
            f"{format_count(stray.files, 'file')} without a label",
            f"{sanitize_text(stray.sentence, 200)} No class folder holds that: it was left out here.",
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
        f"AUC {format_value(found)} without looking at any place in the film",
        f"A rule that knows only {join_words(list(single))} of a film tells the classes apart with "
        f"AUC {format_estimate(found)}"
        + (f", on test {format_estimate(on_test)}" if on_test else "")
        + f"; {best} alone with {single[best]:.3f}. A network may learn the same instead of lungs.",
    )


def _check_prevalence_shift(audit: Audit) -> Iterator[Finding]:
    shares = {
        part: audit.count_images(part, CLASSES[1])
        / sum(audit.count_images(part, label) for label in CLASSES)
        for part in audit.parts
        if any(audit.count_images(part, label) for label in CLASSES)
    }
    if len(shares) > 1 and max(shares.values()) - min(shares.values()) > MAX_PREVALENCE_SHIFT:
        told = join_words([f"{share:.0%} of {part}" for part, share in shares.items()])
        yield Finding(
            "The parts differ in their share of pneumonia",
            f"Pneumonia is {told}: probabilities and precision from one part do not hold in "
            "another.",
        )


def _check_small_parts(audit: Audit) -> Iterator[Finding]:
    for part in audit.parts:
        images = sum(c.images for c in audit.counts if c.part == part)
        if images < MIN_PART_IMAGES:
            yield Finding(
                f"{_format_part(part)} has {format_count(images, 'film')}",
                "Too few to choose or to measure anything on: one film more or less moves every "
                f"figure by {100 / images:.1f} points.",
            )


def _check_missing_patients(audit: Audit) -> Iterator[Finding]:
    unknown = audit.patients.images_without_patient
    if unknown:
        yield Finding(
            f"{format_count(unknown, 'film')} of no known patient",
            f"{unknown:,} of {audit.images:,} file names tell no patient. Films of one person may "
            "lie on both sides of any split, and nothing here could find them.",
        )


def _check_mixed_patients(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        if facts.counts.mixed_patients:
            yield Finding(
                f"{format_count(facts.counts.mixed_patients, 'film')} under two patient numbers",
                f"Films that {name} bear different patient numbers: splitting by number alone "
                "would put the same film on both sides.",
            )


def _check_duplicates_within(audit: Audit) -> Iterator[Finding]:
    for name, facts in _list_duplicate_kinds(audit):
        within = facts.counts.within
        if within:
            told = join_words([f"{number:,} in {part}" for part, number in within.items()])
            yield Finding(
                f"{format_count(facts.counts.images, 'film')} that {name}",
                f"Groups of copies: {told}. They are counted more than once in every figure.",
            )


def _check_repeated_patients(audit: Audit) -> Iterator[Finding]:
    tables = audit.patients.images_per_patient.values()
    several = sum(patients for table in tables for images, patients in table.items() if images > 1)
    if several:
        yield Finding(
            f"{format_count(several, 'patient')} with several films",
            f"Up to {max(map(max, tables))} films bear one number. They are not independent: split "
            "by film, they make a model look better than it is.",
        )


def _list_duplicate_kinds(audit: Audit) -> tuple[tuple[str, DuplicateFacts], ...]:
    return (("are identical", audit.identical), ("look the same", audit.near_duplicates))


def _format_part(part: str) -> str:
    return "The set" if part == "all" else f"The part {part}"
