"""Draw the figures of README, article and notebook from the bundled models' cards.

The cards contain all measured values, so drawing needs neither data nor a network. The images shown
are the synthetic ones of ``examples/xrays``. Figures of other images go into a folder of your
choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.errors import UsageError
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.charts import icon_arrays, performance
from batch_scorer.report.charts.standalone import make_standalone_svg
from batch_scorer.report.content.reliability import make_icon_arrays
from batch_scorer.system.process import quiet_import
from benchmarks.command import BenchmarkCommand
from docs.making.committed import EXAMPLE_IMAGES, FIGURES_FOLDER, check_synthetic
from trainer.audit.audit import audit_dataset, restore_counts
from trainer.audit.charts import draw_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch_scorer.model.card import ModelCard
    from trainer.audit.audit import ImageCount

IMAGES_PER_CLASS = 6
AUGMENTATION_MODEL = "cnn"


@click.command(
    cls=BenchmarkCommand, epilog="Example: python docs/making/figures.py --data chest_xray"
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=FIGURES_FOLDER,
    help="Folder for the SVG files.  [default: docs/figures]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Count the classes of this folder.  [default: the bundled models' training data]",
)
@click.option(
    "--films",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=EXAMPLE_IMAGES,
    help="Folder of the images to show.  [default: examples/xrays]",
)
def main(output: Path, data: Path | None, films: Path) -> None:
    """Draw class balance, example images, augmentation, and each model's figures, as SVG."""
    check_synthetic(films, output)
    cards = load_bundled_cards()
    drawn = {**draw_example_charts(films), **draw_model_charts(cards)}
    drawn["class-balance"] = draw_counts(count_images(data, cards))
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        path = output / f"{name}.svg"
        path.write_text(make_standalone_svg(svg), encoding="utf-8")
        click.echo(path)


def load_bundled_cards() -> list[ModelCard]:
    """Load the cards of the bundled models, best on validation first."""
    return [Classifier.load(name, "cpu").card for name in list_bundled_models()]


def draw_model_charts(cards: Sequence[ModelCard]) -> dict[str, str]:
    """Draw each model's training curves, confusion matrix and ROC, and one ROC of all models."""
    return dict(_iter_model_charts(cards))


def _iter_model_charts(cards: Sequence[ModelCard]) -> Iterator[tuple[str, str]]:
    yield "models-roc", performance.draw_roc(cards)
    for card in cards:
        yield f"{card.name}-training", performance.draw_training_curves([card])
        yield f"{card.name}-roc", performance.draw_roc([card])
        yield f"{card.name}-confusion", performance.draw_confusion(card.reference.confusion)
    if icon_array := make_icon_arrays(cards[0]):
        detected = icon_arrays.IconArray(
            icon_array.detected_title, icon_array.detected, performance.BLUE
        )
        false_alarms = icon_arrays.IconArray(
            icon_array.false_alarms_title, icon_array.false_alarms, performance.AMBER
        )
        yield f"{cards[0].name}-people", icon_arrays.draw_performance_icons(detected, false_alarms)


def draw_example_charts(folder: Path) -> dict[str, str]:
    """Draw example images, their augmentation, and the networks."""
    with quiet_import():
        from trainer import saliency_figures
        from trainer.model.architecture import draw_architecture
        from trainer.model.networks import BUILDERS

    examples = saliency_figures.read_examples(folder, IMAGES_PER_CLASS)
    return {
        "example-films": saliency_figures.draw_examples(examples),
        "augmentation": saliency_figures.draw_augmentation(
            examples, AUGMENTATION_MODEL, IMAGES_PER_CLASS
        ),
        **{f"{name}-architecture": draw_architecture(name) for name in BUILDERS},
    }


def count_images(data: Path | None, cards: Sequence[ModelCard]) -> list[ImageCount]:
    """Count images by part, class and cause, in a folder or from the first card's audit.

    Raises:
        UsageError: No folder is given, and the card has no audit.
    """
    if data:
        return audit_dataset(data).counts
    if not cards[0].audit:
        raise UsageError(f"The card of {cards[0].name} has no audit.", "Pass a folder with --data.")
    return restore_counts(cards[0].audit)


if __name__ == "__main__":
    main()
