"""cxr train: click options -> FitConfig -> fit -> run folder."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_scorer.cli.options import FolderPath
from batch_scorer.errors import EXIT_OK, MissingPackage
from batch_scorer.system.process import quiet_import
from batch_scorer.system.redact import redact_secrets

if TYPE_CHECKING:
    from trainer.config import FitConfig
    from trainer.data.dataset import Dataset

MODEL_NAMES = ("mlp", "cnn", "vgg16")
log = logging.getLogger(__name__)


def parse_named_folders(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001
    values: tuple[str, ...],
) -> dict[str, Path]:
    """Parse repeated NAME=FOLDER options into folders by name."""
    folders = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name.strip() and equals and folder):
            raise click.BadParameter(f"expected NAME=FOLDER, found {value}")
        if name in folders:
            raise click.BadParameter(f"expected different names, found two folders named {name}")
        folders[name] = Path(folder)
    return folders


def parse_settings(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001
    values: tuple[str, ...],
) -> dict[str, float]:
    """Parse repeated NAME=NUMBER options into numbers by name."""
    from trainer.config import TUNABLE_SETTINGS

    settings = {}
    for value in values:
        name, _, number = value.partition("=")
        if name not in TUNABLE_SETTINGS:
            raise click.BadParameter(
                f"expected one of {', '.join(TUNABLE_SETTINGS)}, found {value}"
            )
        low, high = TUNABLE_SETTINGS[name]
        try:
            settings[name] = float(number)
        except ValueError as exc:
            raise click.BadParameter(f"expected {name}=NUMBER, found {value}") from exc
        if not low <= settings[name] <= high:
            raise click.BadParameter(f"expected {name} from {low:g} to {high:g}, found {number}")
    return settings


@click.command(
    epilog="""Examples:

    \b
    cxr train chest_xray -o runs/first --model all --vgg16-weights none
    cxr train chest_xray -o runs/first --model cnn --search 30
    cxr train chest_xray -o runs/second --model cnn --set learning_rate=0.002
    cxr train chest_xray -o runs/gpu --backend torch --compute bfloat16"""
)
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    "run",
    required=True,
    type=FolderPath(),
    help="Run folder, with a subfolder for each model.",
)
@click.option(
    "--model",
    type=click.Choice([*MODEL_NAMES, "all"]),
    default="all",
    show_default=True,
    help="Network to train.",
)
@click.option(
    "--epochs",
    metavar="N",
    type=click.IntRange(1),
    help="Number of epochs. Default: the network's own.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(1),
    help="Number of images per batch. Default: the network's own.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Random seed for the split, the initial weights and the order of images.",
)
@click.option(
    "--backend",
    type=click.Choice(["tensorflow", "torch", "jax"]),
    default="tensorflow",
    show_default=True,
    help="Keras backend.",
)
@click.option(
    "--compute",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of the computation; weights stay float32. Default: the network's own.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=parse_settings,
    help="Override the network's learning_rate, weight_decay, label_smoothing or augmentation "
    "(strength: 1 is normal, 0 none); repeatable.",
)
@click.option(
    "--search",
    "trials",
    type=click.IntRange(1),
    metavar="N",
    help="Instead of training, try N settings on validation images and print the best. Values "
    "given by --set stay fixed.",
)
@click.option(
    "--vgg16-weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|none|FILE",
    help="Initial weights of VGG16: imagenet (downloaded by Keras), none (random), or a file from "
    "Keras or `make weights`, checked by hash.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Also evaluate on the official test images. Use --no-test until all choices are made.",
)
@click.option(
    "--normals",
    multiple=True,
    metavar="NAME=FOLDER",
    callback=parse_named_folders,
    help="External images, all known to be normal. The model card reports the share that is "
    "flagged; repeatable.",
)
def train(
    data: Path,
    run: Path,
    model: str,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    backend: str,
    compute: str | None,
    settings: dict[str, float],
    trials: int | None,
    vgg16_weights: str,
    open_test: bool,
    normals: dict[str, Path],
) -> int:
    """Train, calibrate and evaluate models on labelled X-rays.

    DATA holds the folders NORMAL and PNEUMONIA, or train, val and test with these folders inside.
    Training can be interrupted at any time; the same command resumes it.
    """
    started = time.monotonic()
    if trials and normals:
        raise click.UsageError("--search uses validation images only: remove --normals.")
    os.environ["KERAS_BACKEND"] = backend
    try:
        with quiet_import():
            from trainer.audit.audit import audit_dataset, summarize_audit
            from trainer.config import DTYPE_POLICIES, RECIPES, FitConfig
            from trainer.data.dataset import read_dataset
            from trainer.data.external import read_external_images
            from trainer.model.networks import SIZE_PX
            from trainer.model.pretrained import identify_weights_file
            from trainer.throughput import describe_total_time
            from trainer.train import fit

            if trials:
                import trainer.tune  # noqa: F401 - reports a missing Optuna here
    except ModuleNotFoundError as exc:
        extra = "train" if backend == "tensorflow" else backend
        raise MissingPackage(
            f"Expected the package {exc.name} for training, found none.",
            f'Install it with: pip install "cxr-batch[{extra}]"',
        ) from exc

    if model in ("vgg16", "all") and vgg16_weights not in ("imagenet", "none"):
        identify_weights_file(Path(vgg16_weights))
    log.info("1 read      %s", data)
    dataset = read_dataset(data, SIZE_PX, seed)
    log.info("            %s", ", ".join(f"{name} {n:,}" for name, n in dataset.counts().items()))
    names = MODEL_NAMES if model == "all" else (model,)
    policy = {"policy": DTYPE_POLICIES[compute]} if compute else {}
    configs = [
        FitConfig(
            model=name,
            epochs=epochs or RECIPES[name].epochs,
            batch_size=batch_size or RECIPES[name].batch_size,
            seed=seed,
            backend=backend,
            vgg16_weights=vgg16_weights if name == "vgg16" else "none",
            changes={**settings, **policy},
        )
        for name in names
    ]
    if trials:
        for config in configs:
            _run_search(config, dataset, data, run, trials)
        return EXIT_OK
    external = {
        name: read_external_images(folder, SIZE_PX, dataset) for name, folder in normals.items()
    }
    audit = summarize_audit(audit_dataset(data, open_test=open_test))
    dataset = replace(dataset, external=external, audit=audit)
    for config in configs:
        card = fit(config, dataset, run / config.model, open_test=open_test)
        _print_result(config.model, card)
    if len(names) > 1:
        log.info("            %s", describe_total_time(run, names, time.monotonic() - started))
    click.echo(redact_secrets(f"Next: cxr export {run} -o MODELS"))
    return EXIT_OK


def _run_search(config: FitConfig, dataset: Dataset, data: Path, run: Path, trials: int) -> None:
    from trainer.tune import TABLE_FILE, search_settings

    folder = run / "search" / config.model
    found = search_settings(config, dataset, folder, trials)
    recipe = "none" if found.recipe_score is None else f"{found.recipe_score:.4f}"
    message = (
        f"{config.model}: best of {found.trials} trials scores {found.score:.4f}, the recipe "
        f"{recipe} (mean log loss on validation and shifted validation)\n"
        f"Table: {folder / TABLE_FILE}\n"
        f"Next: {found.best.format_command(str(data), str(run))}"
    )
    click.echo(redact_secrets(message))


def _print_result(name: str, card: object) -> None:
    for split, reference in card.references.items():  # type: ignore[attr-defined]
        values = reference.metrics
        click.echo(
            f"{name:6s} {split:11s} accuracy {values['accuracy'].value:.3f}  "
            f"AUC {values['auc'].value:.3f}  sensitivity {values['recall'].value:.3f}  "
            f"specificity {values['specificity'].value:.3f}  n={reference.images}"
        )
