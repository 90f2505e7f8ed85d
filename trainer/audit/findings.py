"""What the audit found, in plain sentences, worst first. Pure functions.

The order is fixed, by how far each fault can carry a figure away from the truth: films that lie on
both sides of a split come first, then wrong labels, then what a network may learn instead of lungs,
then what makes a figure less certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.text import count, join_words, show_estimate, show_name, show_value
from trainer.audit.confounders import TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.audit.audit import Audit, CopyFacts

FEW_FILMS = 100
TELLING_AUC = 0.6
SHIFT = 0.05
NOTHING = "Nothing wrong was found of what is looked for here."


@dataclass(frozen=True)
class Finding:
    """One fault: a title, what was found, and what follows from it."""

    title: str
    text: str


def find_faults(audit: Audit) -> tuple[Finding, ...]:
    """Every fault of a data set, worst first."""
    rules = (
        _one_class,
        _copies_across,
        _mixed_labels,
        _shared_patients,
        _unusable,
        _strays,
        _shortcut,
        _shifted_classes,
        _small_parts,
        _no_patients,
        _mixed_patients,
        _copies_within,
        _several_films,
    )
    return tuple(finding for rule in rules for finding in rule(audit))


def _one_class(audit: Audit) -> Iterator[Finding]:
    for part in audit.parts:
        missing = [label for label in CLASSES if not audit.count(part, label)]
        if len(missing) == 1:
            yield Finding(
                f"{_in_part(part)} has no film of {missing[0]}",
                "Nothing can be learned or measured with one class.",
            )


def _copies_across(audit: Audit) -> Iterator[Finding]:
    for name, facts in _kinds(audit):
        for pair, groups in facts.counts.across.items():
            yield Finding(
                f"Copies in both {pair}",
                f"Films that {name} lie on both sides ({count(groups, 'group')}): what was seen in "
                "training is no test.",
            )


def _mixed_labels(audit: Audit) -> Iterator[Finding]:
    for name, facts in _kinds(audit):
        if facts.counts.mixed_labels:
            yield Finding(
                f"{count(facts.counts.mixed_labels, 'film')} with two labels",
                f"Films that {name} are labelled {CLASSES[0]} as well as {CLASSES[1]}: one of the "
                "two is wrong.",
            )


def _shared_patients(audit: Audit) -> Iterator[Finding]:
    for shared in audit.patients.shared:
        first, second = shared.parts
        text = (
            f"{count(shared.images[1], 'film')} of {second} and {shared.images[0]:,} of {first} bear "
            "a number that both have. Whether they are the same people is not known: the numbering "
            "may have started again."
        )
        if shared.same_cause is not None:
            some = {0: "none", shared.patients: "all"}.get(shared.same_cause, shared.same_cause)
            text += f" With the same cause (bacteria, virus or none) in both: {some} of them."
        yield Finding(
            f"{count(shared.patients, 'patient number')} in both {first} and {second}", text
        )


def _unusable(audit: Audit) -> Iterator[Finding]:
    if audit.unusable:
        first = show_name(audit.unusable[0].image)
        yield Finding(
            f"{count(len(audit.unusable), 'file')} cannot be used",
            f"In a class folder, but not to be decoded: for example {first}. "
            "Training refuses the set until that is mended or removed.",
        )


def _strays(audit: Audit) -> Iterator[Finding]:
    for stray in audit.strays:
        yield Finding(
            f"{count(stray.files, 'file')} without a label",
            f"{show_name(stray.sentence, 200)} No class folder holds that: it was left out here.",
        )


def _shortcut(audit: Audit) -> Iterator[Finding]:
    found = audit.shortcut.cross_validation.get(TOGETHER)
    if found is None or found.value is None or (found.low or 0) < TELLING_AUC:
        return
    single = {k: v.value or 0 for k, v in audit.shortcut.cross_validation.items() if k != TOGETHER}
    best = max(single, key=lambda name: single[name])
    on_test = audit.shortcut.test.get(TOGETHER)
    yield Finding(
        f"AUC {show_value(found)} without looking at any place in the film",
        f"A rule that knows only {join_words(list(single))} of a film tells the classes apart with "
        f"AUC {show_estimate(found)}"
        + (f", on test {show_estimate(on_test)}" if on_test else "")
        + f"; {best} alone with {single[best]:.3f}. A network may learn the same instead of lungs.",
    )


def _shifted_classes(audit: Audit) -> Iterator[Finding]:
    shares = {
        part: audit.count(part, CLASSES[1]) / sum(audit.count(part, label) for label in CLASSES)
        for part in audit.parts
        if any(audit.count(part, label) for label in CLASSES)
    }
    if len(shares) > 1 and max(shares.values()) - min(shares.values()) > SHIFT:
        told = join_words([f"{share:.0%} of {part}" for part, share in shares.items()])
        yield Finding(
            "The parts differ in their share of pneumonia",
            f"Pneumonia is {told}: probabilities and precision from one part do not hold in "
            "another.",
        )


def _small_parts(audit: Audit) -> Iterator[Finding]:
    for part in audit.parts:
        films = sum(c.images for c in audit.counts if c.part == part)
        if films < FEW_FILMS:
            yield Finding(
                f"{_in_part(part)} has {count(films, 'film')}",
                "Too few to choose or to measure anything on: one film more or less moves every "
                f"figure by {100 / films:.1f} points.",
            )


def _no_patients(audit: Audit) -> Iterator[Finding]:
    unknown = audit.patients.images_without_patient
    if unknown:
        yield Finding(
            f"{count(unknown, 'film')} of no known patient",
            f"{unknown:,} of {audit.images:,} file names tell no patient. Films of one person may "
            "lie on both sides of any split, and nothing here could find them.",
        )


def _mixed_patients(audit: Audit) -> Iterator[Finding]:
    for name, facts in _kinds(audit):
        if facts.counts.mixed_patients:
            yield Finding(
                f"{count(facts.counts.mixed_patients, 'film')} under two patient numbers",
                f"Films that {name} bear different patient numbers: splitting by number alone "
                "would put the same film on both sides.",
            )


def _copies_within(audit: Audit) -> Iterator[Finding]:
    for name, facts in _kinds(audit):
        within = facts.counts.within
        if within:
            told = join_words([f"{number:,} in {part}" for part, number in within.items()])
            yield Finding(
                f"{count(facts.counts.images, 'film')} that {name}",
                f"Groups of copies: {told}. They are counted more than once in every figure.",
            )


def _several_films(audit: Audit) -> Iterator[Finding]:
    tables = audit.patients.images_per_patient.values()
    several = sum(patients for table in tables for films, patients in table.items() if films > 1)
    if several:
        yield Finding(
            f"{count(several, 'patient')} with several films",
            f"Up to {max(map(max, tables))} films bear one number. They are not independent: split "
            "by film, they make a model look better than it is.",
        )


def _kinds(audit: Audit) -> tuple[tuple[str, CopyFacts], ...]:
    return (("are identical", audit.identical), ("look the same", audit.near_duplicates))


def _in_part(part: str) -> str:
    return "The set" if part == "all" else f"The part {part}"
