"""cxr train: click options -> FitConfig -> fit -> run folder."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import click

from batch_scorer.errors import EXIT_OK, MissingPackage
from batch_scorer.process import quiet_import

NAMES = ("mlp", "cnn", "vgg16")
log = logging.getLogger("cxr")


def split_names(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001
    values: tuple[str, ...],
) -> dict[str, Path]:
    """NAME=FOLDER, as often as given, to a folder by name."""
    folders = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name.strip() and equals and folder):
            raise click.BadParameter(f"expected NAME=FOLDER, found {value}")
        if name in folders:
            raise click.BadParameter(f"two folders are named {name}: give each its own name")
        folders[name] = Path(folder)
    return folders


@click.command(
    epilog="Example: cxr train chest_xray -o runs/first --model all --vgg16-weights none"
)
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    "run",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder; each model gets a folder in it.",
)
@click.option(
    "--model",
    type=click.Choice([*NAMES, "all"]),
    default="all",
    show_default=True,
    help="Which network to train.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of each network's own number.")
@click.option("--batch-size", type=click.IntRange(1), help="Instead of each network's own size.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of split, weights and order.")
@click.option(
    "--backend",
    type=click.Choice(["tensorflow", "torch", "jax"]),
    default="tensorflow",
    show_default=True,
    help="What Keras computes with.",
)
@click.option(
    "--vgg16-weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|none|FILE",
    help="First weights of VGG16: Keras's download, none (from scratch), or its file, "
    "checked by hash.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Evaluate on the official test films too. Use --no-test while choosing anything.",
)
@click.option(
    "--normals",
    multiple=True,
    metavar="NAME=FOLDER",
    callback=split_names,
    help="Films from elsewhere, all known to be normal: how many are flagged goes into the card. "
    "May be repeated.",
)
def train(
    data: Path,
    run: Path,
    model: str,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    backend: str,
    vgg16_weights: str,
    open_test: bool,
    normals: dict[str, Path],
) -> int:
    """Fit, calibrate and evaluate networks on the labelled films in DATA.

    DATA has the folders NORMAL and PNEUMONIA, or train, val and test that have them. The run
    can be stopped at any time; the same command goes on where it was.
    """
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_import():
            from trainer.audit.facts import audit_data, shorten
            from trainer.dataset import read_dataset
            from trainer.external import read_normals
            from trainer.fit import fit
            from trainer.models import IMAGENET_MD5, SIZE_PX, check_weights_file
            from trainer.recipes import RECIPES, FitConfig
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Training needs the package {exc.name}, which is not installed.",
            'Install it with: pip install "cxr-batch[train]"',
        ) from exc

    if model in ("vgg16", "all") and vgg16_weights not in ("imagenet", "none"):
        check_weights_file(Path(vgg16_weights), IMAGENET_MD5)
    log.info("1 read      %s", data)
    dataset = read_dataset(data, SIZE_PX, seed)
    log.info("            %s", ", ".join(f"{name} {n:,}" for name, n in dataset.counts().items()))
    elsewhere = {name: read_normals(folder, SIZE_PX, dataset) for name, folder in normals.items()}
    audit = shorten(audit_data(data, open_test=open_test))
    dataset = replace(dataset, elsewhere=elsewhere, audit=audit)
    for name in NAMES if model == "all" else (model,):
        recipe = RECIPES[name]
        config = FitConfig(
            model=name,
            epochs=epochs or recipe.epochs,
            batch_size=batch_size or recipe.batch_size,
            seed=seed,
            backend=backend,
            vgg16_weights=vgg16_weights if name == "vgg16" else "none",
        )
        card = fit(config, dataset, run / name, open_test=open_test)
        _print_result(name, card)
    click.echo(f"Next: cxr export {run} -o MODELS")
    return EXIT_OK


def _print_result(name: str, card: object) -> None:
    for split, reference in card.references.items():  # type: ignore[attr-defined]
        values = reference.metrics
        click.echo(
            f"{name:6s} {split:11s} accuracy {values['accuracy'].value:.3f}  "
            f"AUC {values['auc'].value:.3f}  sensitivity {values['recall'].value:.3f}  "
            f"specificity {values['specificity'].value:.3f}  n={reference.films}"
        )
