"""Draw the figures of README, article and notebook from the bundled models' cards.

Everything that is measured stands in the cards, so neither data nor network are needed for it. The
films shown are the synthetic ones of ``examples/xrays``; films of a folder of your own go into a
folder of your own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.errors import UsageError
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.charts import icon_arrays, performance
from batch_scorer.report.charts.standalone import stand_alone
from batch_scorer.report.content.reliability import count_people
from batch_scorer.system.process import quiet_import
from benchmarks.command import Measurement
from docs.making.committed import FIGURES, FILMS, keep_real_films_out
from trainer.audit.audit import audit_data, restore_counts
from trainer.audit.charts import draw_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch_scorer.model.card import ModelCard
    from trainer.audit.audit import Count

PER_CLASS = 6
AUGMENTED = "cnn"


@click.command(cls=Measurement, epilog="Example: python docs/making/figures.py --data chest_xray")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=FIGURES,
    help="Folder for the SVG files.  [default: docs/figures]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Count the classes of this folder instead of the bundled models' training data.",
)
@click.option(
    "--films",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=FILMS,
    help="Folder of the films to show.  [default: examples/xrays]",
)
def main(output: Path, data: Path | None, films: Path) -> None:
    """Draw class balance, example films, augmentation, and each model's figures, as SVG."""
    keep_real_films_out(films, output)
    cards = read_cards()
    drawn = {**draw_films(films), **draw_cards(cards)}
    drawn["class-balance"] = draw_counts(read_counts(data, cards))
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        path = output / f"{name}.svg"
        path.write_text(stand_alone(svg), encoding="utf-8")
        click.echo(path)


def read_cards() -> list[ModelCard]:
    """The cards of the bundled models, the best on validation first."""
    return [Classifier.load(name, "cpu").card for name in list_bundled_models()]


def draw_cards(cards: Sequence[ModelCard]) -> dict[str, str]:
    """Draw what the cards hold: for each model its curves, matrix and ROC, and all together."""
    return dict(_draw_cards(cards))


def _draw_cards(cards: Sequence[ModelCard]) -> Iterator[tuple[str, str]]:
    yield "models-roc", performance.draw_roc(cards)
    for card in cards:
        yield f"{card.name}-training", performance.draw_training([card])
        yield f"{card.name}-roc", performance.draw_roc([card])
        yield f"{card.name}-confusion", performance.draw_confusion(card.reference.confusion)
    if people := count_people(cards[0]):
        found = icon_arrays.Crowd(people.found_title, people.found, performance.BLUE)
        alarms = icon_arrays.Crowd(people.alarms_title, people.alarms, performance.AMBER)
        yield f"{cards[0].name}-people", icon_arrays.draw_people(found, alarms)


def draw_films(folder: Path) -> dict[str, str]:
    """Draw example films, what augmentation makes of them, and the networks."""
    with quiet_import():
        from trainer import saliency_figures
        from trainer.model.architecture import draw_architecture
        from trainer.model.networks import BUILDERS

    examples = saliency_figures.read_examples(folder, PER_CLASS)
    return {
        "example-films": saliency_figures.draw_examples(examples),
        "augmentation": saliency_figures.draw_augmentation(examples, AUGMENTED, PER_CLASS),
        **{f"{name}-architecture": draw_architecture(name) for name in BUILDERS},
    }


def read_counts(data: Path | None, cards: Sequence[ModelCard]) -> list[Count]:
    """Films by part, class and cause: of a folder, or as the first card's audit says.

    Raises:
        UsageError: There is no folder, and the card has no audit.
    """
    if data:
        return audit_data(data).counts
    if not cards[0].audit:
        raise UsageError(f"The card of {cards[0].name} has no audit.", "Give a folder with --data.")
    return restore_counts(cards[0].audit)


if __name__ == "__main__":
    main()
