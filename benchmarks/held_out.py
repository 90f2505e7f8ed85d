"""A network judged on films of another kind than it learnt from.

Validation films are like training films, and nearly every network reads them well. Here the films
to judge by differ, in one of two ways:

- ``cause``: a network learns from one cause of pneumonia, bacterial or viral, and one series of
  normal films, IM or NORMAL2 as their names begin in the published set, and is judged on the other
  cause and series; patients who would be in both parts are left out of the second.
- ``tone``: it is judged on those films of each class whose tone and texture speak for the other
  class (``benchmarks.tone``), and learns from the other patients. What it may lean on without a
  look at the lungs misleads it here.

Official train and val only: the test films are not read. The network that is judged is the one of
the last epoch, each film read as it is and mirrored where the recipe says so.

This chooses settings, as `cxr train --search` does. A model that is kept learns from all films.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click
import numpy as np

from batch_scorer import metrics
from batch_scorer.errors import DatasetError
from batch_scorer.process import quiet_import
from batch_scorer.records import CAUSES
from benchmarks.command import Measurement, packages, with_interval
from benchmarks.tone import answer_by_tone, misled
from trainer.audit.shortcut import FOLDS, fewest_patients
from trainer.cli import NAMES, read_settings
from trainer.evaluate import PREDICT_BATCH, TARGET_SENSITIVITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.dataset import Dataset, Films

SERIES = ("IM", "NORMAL2")
MISLED_SHARE = 0.15
MORE_PATIENTS = "Choose a folder with more patients."


@click.command(
    cls=Measurement,
    epilog="Example: python benchmarks/held_out.py chest_xray --model cnn --set augmentation=0.5",
)
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", type=click.Choice(NAMES), default="cnn", show_default=True)
@click.option(
    "--by",
    type=click.Choice(("cause", "tone")),
    default="cause",
    show_default=True,
    help="What sets the films to judge apart.",
)
@click.option(
    "--cause",
    type=click.Choice(CAUSES),
    default="bacterial",
    show_default=True,
    help="By cause: the pneumonia to learn from.",
)
@click.option(
    "--series",
    type=click.Choice(SERIES),
    default="IM",
    show_default=True,
    help="By cause: the normal films to learn from.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the network's own number.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=NUMBER", callback=read_settings)
@click.option(
    "--vgg16-weights", default="imagenet", show_default=True, metavar="imagenet|none|FILE"
)
def main(  # noqa: PLR0913, PLR0917 - click passes every option
    data: Path, model: str, by: str, cause: str, series: str, epochs: int | None, seed: int,
    settings: dict[str, float], vgg16_weights: str,
) -> None:  # fmt: skip
    """Train one network on one kind of the films in DATA, and judge it on the other.

    Prints AUC and the specificity at a sensitivity of 0.95, with 95 % intervals by patient.
    """
    with packages(), quiet_import():
        import keras

        from trainer.answers import answer
        from trainer.dataset import read_dataset
        from trainer.fit import keep, train_network
        from trainer.models import SIZE_PX
        from trainer.recipes import RECIPES, FitConfig

    recipe = RECIPES[model]
    config = FitConfig(
        model=model,
        epochs=epochs or recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        backend=keras.backend.backend(),
        vgg16_weights=vgg16_weights if model == "vgg16" else "none",
        changes=settings,
    )
    dataset = read_dataset(data, SIZE_PX, seed)
    dataset = hold_out(dataset, cause, series) if by == "cause" else hold_out_by_tone(dataset)
    click.echo(f"{len(dataset.train)} films to learn from, {len(dataset.validation)} to judge")
    trained = keep(train_network(config, dataset, []), config)
    kept = answer(trained, None, both_ways=recipe.both_ways)
    found = kept.predict(dataset.validation.pixels, batch_size=PREDICT_BATCH, verbose=0)
    click.echo(tell(dataset.validation, found["logit"][:, 0]))


def hold_out(dataset: Dataset, cause: str, series: str) -> Dataset:
    """Split train and validation films again: by cause and series instead of by patient.

    Args:
        dataset: Its test films are dropped.
        cause: The pneumonia to learn from, one of ``batch_scorer.records.CAUSES``.
        series: The normal films to learn from, one of ``SERIES``.

    Raises:
        DatasetError: The file names tell no cause or no series, so that a part has one class only.
    """
    films = _join(dataset.train, dataset.validation)
    names = np.array([PurePosixPath(key).name for key in films.keys])
    of_series = np.char.startswith(names, f"{series}-")
    learnt = np.where(films.labels == 1, films.etiology == cause, of_series)
    known = (films.labels == 0) | (films.etiology != "")
    judged = ~learnt & known & ~np.isin(films.groups, films.groups[learnt])
    return _split(
        dataset,
        films,
        learnt,
        judged,
        "File names must tell cause and series, as person1_bacteria_2.jpeg and "
        "IM-0115-0001.jpeg or NORMAL2-IM-0385-0001.jpeg do.",
    )


def hold_out_by_tone(dataset: Dataset) -> Dataset:
    """Split train and validation films again: those to judge are misleading in tone and texture.

    Args:
        dataset: Its test films are dropped.

    Raises:
        DatasetError: Too few patients to answer by tone, or to learn from and judge.
    """
    films = _join(dataset.train, dataset.validation)
    patients = fewest_patients(films.labels, films.groups)
    if patients < FOLDS:
        raise DatasetError(
            f"Expected at least {FOLDS} patients of each class, found {patients}.",
            MORE_PATIENTS,
        )
    judged = misled(films.labels, answer_by_tone(films), MISLED_SHARE)
    learnt = ~np.isin(films.groups, films.groups[judged])
    return _split(dataset, films, learnt, judged, MORE_PATIENTS)


def tell(films: Films, logits: NDArray[np.float64]) -> str:
    """AUC and specificity of these answers in a sentence."""
    probabilities = 1 / (1 + np.exp(-logits))
    threshold = metrics.threshold_at_sensitivity(films.labels, probabilities, TARGET_SENSITIVITY)
    found = metrics.evaluate(films.labels, probabilities, threshold, patients=list(films.groups))
    auc, specificity = found["auc"], found["specificity"]
    return (
        f"AUC {with_interval(auc)}, specificity {with_interval(specificity)} at a sensitivity of "
        f"{TARGET_SENSITIVITY}; {len(films) - films.pneumonia} normal films, {films.pneumonia} "
        "with pneumonia"
    )


def _split(
    dataset: Dataset,
    films: Films,
    learnt: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    advice: str,
) -> Dataset:
    for part, what in ((learnt, "learn from"), (judged, "judge")):
        if len(np.unique(films.labels[part])) < 2:  # noqa: PLR2004 - normal and pneumonia
            raise DatasetError(
                f"Expected films of both classes to {what}, found one class only.", advice
            )
    train, validation = (films.take(np.flatnonzero(part)) for part in (learnt, judged))
    return replace(dataset, train=train, validation=validation, test=None)


def _join(first: Films, second: Films) -> Films:
    pairs = ((getattr(first, name), getattr(second, name)) for name in vars(first))
    return type(first)(*(np.concatenate(pair) for pair in pairs))


if __name__ == "__main__":
    main()
