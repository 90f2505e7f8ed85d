"""What a flag means in a clinic: predictive values by prevalence. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.metrics.prevalence import predictive_values
from batch_scorer.report.content.accuracy import Cell, split_name
from batch_scorer.report.content.methods import people_of
from batch_scorer.report.content.text import as_people, count, of_hundred, show_estimate, show_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest

PREVALENCES = (0.05, 0.10, 0.25, 0.60)


@dataclass(frozen=True)
class AtPrevalence:
    """One row: where ``ill`` of 100 patients have pneumonia.

    ``flagged`` is of 1,000 patients, ``right`` those with pneumonia of 100 flagged, ``missed``
    those with pneumonia of 1,000 not flagged. ``right_told`` is ``right`` in one line, and
    ``ill_of_flagged`` its number.
    """

    ill: int
    flagged: str
    right: Cell
    missed: Cell
    right_told: str
    ill_of_flagged: int


@dataclass(frozen=True)
class FlagMeaning:
    """Predictive values from one set of films. ``rows`` is empty where these do not define them."""

    name: str
    title: str
    about: str
    rows: tuple[AtPrevalence, ...]
    missing: str
    picture_title: str
    alt: str


@dataclass(frozen=True)
class Clinic:
    """What a flag means: in sentences, and by each set of films that tells of the model."""

    sentences: tuple[str, ...]
    meanings: tuple[FlagMeaning, ...]


def describe_clinic(manifest: RunManifest) -> Clinic:
    """What a flag of the first model means where pneumonia is rarer or more common."""
    card = manifest.models[0].card
    reference = card.reference
    meanings = [
        _meaning("reference", f"By the {split_name(card)}", reference.metrics, people_of(card))
    ]
    own = manifest.metrics[0] if manifest.metrics else None
    if own and not manifest.synthetic and 0 < own.pneumonia < own.images:
        title = "By the labelled films of this batch"
        meanings.append(_meaning("batch", title, own.metrics, "patients"))
    return Clinic((*_example(card, meanings[0]), _caution(card)), tuple(meanings))


def _meaning(name: str, title: str, metrics: Mapping[str, Estimate], people: str) -> FlagMeaning:
    recall, specificity = metrics["recall"], metrics["specificity"]
    rows = tuple(
        row
        for prevalence in PREVALENCES
        if (row := _at(prevalence, recall, specificity)) is not None
    )
    return FlagMeaning(
        name=name,
        title=title,
        about=f"From sensitivity {show_estimate(recall)} and specificity "
        f"{show_estimate(specificity)}.",
        rows=rows,
        missing=""
        if rows
        else "Not defined: it needs films with pneumonia and normal films, some of them flagged.",
        picture_title=f"100 flagged {people}: filled have pneumonia, hollow were flagged wrongly",
        alt=_alt(rows, people),
    )


def _at(prevalence: float, recall: Estimate, specificity: Estimate) -> AtPrevalence | None:
    right, clear = predictive_values(recall, specificity, prevalence)
    if right.value is None or clear.value is None:
        return None
    sensitivity, alarms = recall.value or 0.0, 1 - (specificity.value or 0.0)
    flagged = prevalence * sensitivity + (1 - prevalence) * alarms
    return AtPrevalence(
        ill=round(100 * prevalence),
        flagged=f"{1000 * flagged:,.0f}",
        right=_cell(right, 100),
        missed=_cell(clear, 1000, inverse=True),
        right_told=of_hundred(right),
        ill_of_flagged=round(100 * right.value),
    )


def _cell(estimate: Estimate, of: int, *, inverse: bool = False) -> Cell:
    value, interval = as_people(estimate, of, inverse=inverse) or ("", "")
    return Cell(value, interval, f"n = {estimate.n:,}")


def _example(card: ModelCard, meaning: FlagMeaning) -> tuple[str, ...]:
    if not meaning.rows:
        return (
            f"The {split_name(card)} do not define what a flag of this model means: "
            "a class is missing among them.",
        )
    few, many = meaning.rows[0], meaning.rows[-1]
    wrong = 100 - few.ill_of_flagged
    return (
        f"The same flag means less where pneumonia is rare. Where {few.ill} of 100 patients have "
        f"it, {few.right_told} of 100 flagged have it and {wrong} were flagged wrongly; where "
        f"{many.ill} of 100 have it, {many.right_told} do.",
    )


def _caution(card: ModelCard) -> str:
    reference = card.reference
    share = f"{reference.pneumonia:,} of {count(reference.images, 'film')}"
    return (
        f"Of the {split_name(card)} {share} show pneumonia, so the precision of section 3 is that "
        f"of such a mix; here, look for the line of your own patients. The table takes for granted "
        f"that {show_name(card.title, 60)} has the same sensitivity and specificity on your films, "
        "which is not known before it was measured on them."
    )


def _alt(rows: tuple[AtPrevalence, ...], people: str) -> str:
    parts = [f"{row.ill_of_flagged} where {row.ill} of 100 {people} have it" for row in rows]
    return (
        f"Of 100 flagged {people}, with pneumonia: {'; '.join(parts)}. The others were flagged "
        "wrongly."
    )
