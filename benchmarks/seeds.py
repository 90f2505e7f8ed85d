"""How much a network's figures depend on its seed: mean and standard deviation over runs.

Reads the cards of run folders that differ in their seed alone. A seed changes the first weights,
the order of the films and the split into training and validation, so that validation figures come
from other films each time; test films are the same. Sensitivity and specificity are those at each
run's own operating threshold. Specificity at a sensitivity of 95 % is read from the ROC curve of
each split, so it says how well the classes are separated, whatever threshold was chosen.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.card import read_card
from batch_scorer.errors import UsageError
from benchmarks.command import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.card import ModelCard, Reference
    from batch_scorer.metrics import Curve

SHOWN = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "recall": "sensitivity",
    "specificity": "specificity",
}
TARGET_SENSITIVITY = 0.95
ROUNDED = 5e-6
"""ROC points in a card have five decimals."""


@click.command(
    cls=Measurement, epilog="Example: python benchmarks/seeds.py runs/seed1 runs/seed2 runs/seed3"
)
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
def main(runs: tuple[Path, ...]) -> None:
    """Print mean and standard deviation over the seeds of the run folders RUNS, as Markdown.

    Each is the output folder of one `cxr train`, or the folder of one network in it.
    """
    by_name: dict[str, list[ModelCard]] = {}
    for run in runs:
        for path in find_cards(run):
            card = read_card(path.read_text(encoding="utf-8"), str(path))
            by_name.setdefault(card.name, []).append(card)
    click.echo(f"| network | split | runs | {' | '.join(SHOWN.values())} | specificity at 95 % |")
    click.echo("|---" * (len(SHOWN) + 4) + "|")
    for name, cards in by_name.items():
        check_alike(name, cards)
        for split, found in summarise(cards).items():
            cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in found]
            click.echo(f"| {name} | {split} | {len(cards)} | {' | '.join(cells)} |")
    click.echo("\nMean ± standard deviation (n - 1) over runs with different seeds.")


def find_cards(run: Path) -> list[Path]:
    """The cards of a run folder, or of one network's folder in it.

    Raises:
        UsageError: There is none.
    """
    own = run / "card.json"
    found = [own] if own.is_file() else sorted(run.glob("*/card.json"))
    if not found:
        raise UsageError(
            f"Expected a finished training run at {run}, found no card.json in it.",
            "Make one with: cxr train DATA -o RUN --seed N",
        )
    return found


def check_alike(name: str, cards: Sequence[ModelCard]) -> None:
    """Refuse runs that differ in more than their seed, or not in their seed.

    Raises:
        UsageError: Fewer than two runs, a seed twice, or other films or epochs.
    """
    seeds = [card.training.seed for card in cards]
    if len(cards) < 2 or len(set(seeds)) != len(seeds):  # noqa: PLR2004 - a deviation needs two
        raise UsageError(
            f"Expected at least two runs of {name}, each with a seed of its own, found the seeds "
            f"{', '.join(map(str, seeds))}.",
            "Train again with another --seed, and name each run once.",
        )
    must_agree = {
        "films": {card.training.data_fingerprint for card in cards},
        "numbers of epochs": {str(card.training.epochs) for card in cards},
        "numbers of parameters": {str(card.training.parameters) for card in cards},
    }
    for what, values in must_agree.items():
        if len(values) > 1:
            raise UsageError(
                f"Expected runs of {name} that differ in their seed alone, found different {what}: "
                f"{', '.join(sorted(values))}.",
                "Train them with the same options and on the same films.",
            )


def summarise(cards: Sequence[ModelCard]) -> dict[str, list[tuple[float, float]]]:
    """Mean and standard deviation of every column, by split that all cards have."""
    shared = [split for split in cards[0].references if all(split in c.references for c in cards)]
    return {
        split: [
            (statistics.fmean(column), statistics.stdev(column))
            for column in zip(*(_figures(card.references[split]) for card in cards), strict=True)
        ]
        for split in shared
    }


def specificity_at(roc: Curve, sensitivity: float) -> float:
    """The highest specificity that a ROC curve reaches at a sensitivity of at least this.

    Args:
        roc: x false positive rate, y true positive rate.
        sensitivity: From 0 to 1.
    """
    return 1 - min(x for x, y in zip(roc.x, roc.y, strict=True) if y >= sensitivity - ROUNDED)


def _figures(reference: Reference) -> list[float]:
    values = [reference.metrics[name].value for name in SHOWN]
    if None in values:
        raise UsageError(
            f"Expected films of both classes in the split {reference.split}, found one class only."
        )
    figures = [value for value in values if value is not None]
    return [*figures, specificity_at(reference.roc, TARGET_SENSITIVITY)]


if __name__ == "__main__":
    main()
