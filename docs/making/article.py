"""Write docs/article.md from the bundled models' cards, for readers without a technical background.

The template has the words, this module the numbers. A card without one of them is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.errors import CardMissing
from batch_scorer.metrics.prevalence import predictive_values
from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import describe_reference_findings
from batch_scorer.report.content.model_comparison import describe_ranking
from batch_scorer.report.content.slides import PUBLISHED_RESULTS
from batch_scorer.report.content.text import format_estimate, format_per_hundred
from batch_scorer.report.formats.templates import load_template
from benchmarks.command import BenchmarkCommand
from docs.making.committed import REPOSITORY
from docs.making.figures import load_bundled_cards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import DataAudit

TEMPLATE = "article.md.j2"
ARTICLE = REPOSITORY / "docs" / "article.md"
TABLE_METRICS = ("accuracy", "recall", "specificity", "auc")
LOW_PREVALENCE, HIGH_PREVALENCE = 0.05, 0.60


@dataclass(frozen=True)
class TrainingCounts:
    """Images that the models learned from, and those held back for choosing."""

    images: str
    normal: str
    pneumonia: str
    held_back: str


@dataclass(frozen=True)
class TestCounts:
    """Counts of the test or official val images; ``points`` is the weight of one image in %."""

    images: str
    pneumonia: str
    share: str
    points: str


@dataclass(frozen=True)
class BestModel:
    """The first model: its detections and errors on the test images and on adults."""

    name: str
    title: str
    detected: str
    false_alarms: str
    missed: str
    not_flagged: str
    not_flagged_validation: str
    adults: str
    adults_rejected: str
    adults_flagged: str


@dataclass(frozen=True)
class ModelRow:
    """One row of the table of models."""

    name: str
    title: str
    weights: str
    accuracy: str
    recall: str
    specificity: str
    auc: str


@click.command(cls=BenchmarkCommand, epilog="Example: python docs/making/article.py")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ARTICLE,
    help="[default: docs/article.md]",
)
def main(output: Path) -> None:
    """Write the article about the bundled models."""
    output.write_text(write_article(load_bundled_cards()), encoding="utf-8")
    click.echo(output)


def write_article(cards: Sequence[ModelCard]) -> str:
    """Write the article as Markdown; the same cards give the same text.

    Args:
        cards: Cards of models that were trained and compared together, best on validation
            first.

    Raises:
        CardMissing: The cards lack facts that the article needs.
    """
    best = cards[0]
    audit, comparison = best.audit, best.comparison
    complete = best.external and "test" in best.references
    if audit is None or comparison is None or not complete:
        raise CardMissing(
            f"Expected on the card of {best.name} an audit, a comparison, test images and normal "
            "images of adults.",
            "Train with `cxr train --model all --normals NAME=FOLDER`, then export all together.",
        )
    reference = best.references["test"]
    official = [n_images for key, n_images in audit.images.items() if key.startswith("val ")]
    return load_template(TEMPLATE).render(
        figures="figures",
        best=_describe_best(best),
        models=[_make_row(card) for card in cards],
        published=[_make_published_row(name, found) for name, found in PUBLISHED_RESULTS.items()],
        learnt=_count_training_images(best.training.images),
        exam=_make_test_counts(reference.images, reference.pneumonia),
        mock=_make_test_counts(sum(official), 0),
        audit=_describe_audit(audit),
        comparison=describe_ranking(comparison, {card.name: card.title for card in cards}),
        clinic={
            "few": _describe_ppv(best, LOW_PREVALENCE),
            "many": _describe_ppv(best, HIGH_PREVALENCE),
        },
    )


def _describe_best(card: ModelCard) -> BestModel:
    reference, validation = card.references["test"], card.references["validation"]
    detected, false_alarms = describe_reference_findings(card, card.title)
    adults = card.external[0]
    return BestModel(
        name=card.name,
        title=card.title,
        detected=detected,
        false_alarms=false_alarms,
        missed=f"{reference.confusion.false_negative:,}",
        not_flagged=format_per_hundred(reference.metrics["specificity"]),
        not_flagged_validation=format_per_hundred(validation.metrics["specificity"]),
        adults=f"{adults.images:,}",
        adults_rejected=f"{adults.rejected:,}",
        adults_flagged=f"{adults.flagged:,}",
    )


def _make_row(card: ModelCard) -> ModelRow:
    found = card.references["test"].metrics
    values = {name: _format_estimate(found[name]) for name in TABLE_METRICS}
    return ModelRow(card.name, card.title, f"{card.training.parameters:,}", **values)


def _make_published_row(name: str, found: Mapping[str, str]) -> dict[str, str]:
    return {"name": name, **{column: found.get(column, "") for column in TABLE_METRICS}}


def _count_training_images(n_images: Mapping[str, int]) -> TrainingCounts:
    normal, pneumonia = (n_images[f"train {label}"] for label in CLASSES)
    held_back = sum(n_images[f"validation {label}"] for label in CLASSES)
    return TrainingCounts(
        f"{normal + pneumonia:,}", f"{normal:,}", f"{pneumonia:,}", f"{held_back:,}"
    )


def _make_test_counts(n_images: int, pneumonia: int) -> TestCounts:
    return TestCounts(
        f"{n_images:,}",
        f"{pneumonia:,}",
        f"{100 * pneumonia / n_images:.0f}",
        f"{100 / n_images:.0f}",
    )


def _describe_audit(audit: DataAudit) -> dict[str, str]:
    images = sum(audit.images.values())
    return {
        "images": f"{images:,}",
        "patients": f"{audit.patients:,}",
        "shortcut": format_estimate(audit.metadata_auc["test"]),
    }


def _describe_ppv(card: ModelCard, prevalence: float) -> str:
    found = card.references["test"].metrics
    right, _ = predictive_values(found["recall"], found["specificity"], prevalence)
    return (
        f"Where {100 * prevalence:.0f} of 100 have pneumonia, {format_per_hundred(right)} of 100 "
        "flagged children do."
    )


def _format_estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
