"""Write docs/article.md from the bundled models' cards, for readers who know no machine learning.

The template has the words, this module the numbers; a card that lacks one of them is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.errors import CardMissing
from batch_scorer.metrics.prevalence import predictive_values
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import reference_findings
from batch_scorer.report.content.model_comparison import say_comparison
from batch_scorer.report.content.slides import PUBLISHED
from batch_scorer.report.content.text import of_hundred, show_estimate
from batch_scorer.report.formats.templates import open_template
from benchmarks.command import Measurement
from docs.making.committed import REPOSITORY
from docs.making.figures import read_cards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import DataAudit

TEMPLATE = "article.md.j2"
ARTICLE = REPOSITORY / "docs" / "article.md"
SHOWN = ("accuracy", "recall", "specificity", "auc")
RARE, COMMON = 0.05, 0.60


@dataclass(frozen=True)
class Learnt:
    """Films that the models learnt from, and those held back for choosing."""

    images: str
    normal: str
    pneumonia: str
    held_back: str


@dataclass(frozen=True)
class Exam:
    """The test films, or the official val films; ``points`` is what one film of them weighs."""

    images: str
    pneumonia: str
    share: str
    points: str


@dataclass(frozen=True)
class Best:
    """The first model: what it finds and misses, on the exam and elsewhere."""

    name: str
    title: str
    found: str
    alarms: str
    missed: str
    spared: str
    spared_at_home: str
    adults: str
    adults_rejected: str
    adults_flagged: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    weights: str
    accuracy: str
    recall: str
    specificity: str
    auc: str


@click.command(cls=Measurement, epilog="Example: python docs/making/article.py")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ARTICLE,
    help="[default: docs/article.md]",
)
def main(output: Path) -> None:
    """Write the article about the bundled models."""
    output.write_text(write_article(read_cards()), encoding="utf-8")
    click.echo(output)


def write_article(cards: Sequence[ModelCard]) -> str:
    """The article as Markdown; the same cards give the same text.

    Args:
        cards: Of models that were trained and compared together, the best on validation first.

    Raises:
        CardMissing: They lack what the article tells.
    """
    best = cards[0]
    audit, comparison = best.audit, best.comparison
    complete = best.external and "test" in best.references
    if audit is None or comparison is None or not complete:
        raise CardMissing(
            f"Expected on the card of {best.name} an audit, a comparison, test films and normal "
            "films of adults.",
            "Train with `cxr train --model all --normals NAME=FOLDER` and export all together.",
        )
    reference = best.references["test"]
    official = [films for key, films in audit.images.items() if key.startswith("val ")]
    return open_template(TEMPLATE).render(
        figures="figures",
        best=_tell_best(best),
        models=[_row(card) for card in cards],
        published=[_published(name, found) for name, found in PUBLISHED.items()],
        learnt=_count_learnt(best.training.images),
        exam=_exam(reference.images, reference.pneumonia),
        mock=_exam(sum(official), 0),
        audit=_tell_audit(audit),
        comparison=say_comparison(comparison, {card.name: card.title for card in cards}),
        clinic={"few": _at(best, RARE), "many": _at(best, COMMON)},
    )


def _tell_best(card: ModelCard) -> Best:
    reference, home = card.references["test"], card.references["validation"]
    found, alarms = reference_findings(card, card.title)
    adults = card.external[0]
    return Best(
        name=card.name,
        title=card.title,
        found=found,
        alarms=alarms,
        missed=f"{reference.confusion.false_negative:,}",
        spared=of_hundred(reference.metrics["specificity"]),
        spared_at_home=of_hundred(home.metrics["specificity"]),
        adults=f"{adults.images:,}",
        adults_rejected=f"{adults.rejected:,}",
        adults_flagged=f"{adults.flagged:,}",
    )


def _row(card: ModelCard) -> Row:
    found = card.references["test"].metrics
    values = {name: _bracket(found[name]) for name in SHOWN}
    return Row(card.name, card.title, f"{card.training.parameters:,}", **values)


def _published(name: str, found: Mapping[str, str]) -> dict[str, str]:
    return {"name": name, **{column: found.get(column, "") for column in SHOWN}}


def _count_learnt(films: Mapping[str, int]) -> Learnt:
    normal, pneumonia = (films[f"train {label}"] for label in CLASSES)
    held_back = sum(films[f"validation {label}"] for label in CLASSES)
    return Learnt(f"{normal + pneumonia:,}", f"{normal:,}", f"{pneumonia:,}", f"{held_back:,}")


def _exam(films: int, pneumonia: int) -> Exam:
    return Exam(
        f"{films:,}", f"{pneumonia:,}", f"{100 * pneumonia / films:.0f}", f"{100 / films:.0f}"
    )


def _tell_audit(audit: DataAudit) -> dict[str, str]:
    films = sum(audit.images.values())
    return {
        "films": f"{films:,}",
        "patients": f"{audit.patients:,}",
        "shortcut": show_estimate(audit.metadata_auc["test"]),
    }


def _at(card: ModelCard, prevalence: float) -> str:
    found = card.references["test"].metrics
    right, _ = predictive_values(found["recall"], found["specificity"], prevalence)
    return (
        f"Where {100 * prevalence:.0f} of 100 have pneumonia, {of_hundred(right)} of 100 flagged "
        "children do."
    )


def _bracket(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
