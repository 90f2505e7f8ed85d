"""fit(config) -> a run folder: train, keep the best epoch, evaluate, write the card.

Numbered steps, with the same words in the log: 1 read, 2 train, 3 evaluate, 4 write.
Backend-agnostic Keras 3: see ``trainer.feed`` for how the films get there.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np

from batch_scorer.errors import DatasetError, ForeignFile
from trainer import run_folder
from trainer.answers import answer
from trainer.describe import describe
from trainer.feed import feed
from trainer.models import BUILDERS
from trainer.pretrained import load_vgg16_convolutions
from trainer.speed import tell_speed
from trainer.typicality import fit_typical

if TYPE_CHECKING:
    from batch_scorer.card import ModelCard
    from trainer.dataset import Dataset, Films
    from trainer.recipes import FitConfig

log = logging.getLogger("cxr")
VIRAL_SHARE = 0.3
"""Of the loss: how much the second question, bacterial or viral, counts beside the first."""
WARMUP_EPOCHS = 1


def fit(config: FitConfig, dataset: Dataset, folder: Path, *, open_test: bool) -> ModelCard:
    """Train one network, or go on where an interrupted run was, and write its run folder.

    Args:
        config: What to train.
        dataset: From ``read_dataset`` with ``SIZE_PX``.
        folder: Made where needed. A finished training there is evaluated again, not repeated.
        open_test: Also evaluate the official test films.

    Raises:
        DatasetError: The folder holds a run of another config or of other films.
    """
    claim(folder, config, dataset)
    if not (folder / run_folder.MODEL_FILE).is_file():
        _train(config, dataset, folder)
    log.info("2 train     %s", tell_speed(folder, config.model, len(dataset.train)))
    card = describe(config, dataset, folder, open_test=open_test)
    run_folder.remove_resume(folder / run_folder.RESUME_FOLDER)
    return card


def claim(folder: Path, config: FitConfig, dataset: Dataset) -> None:
    """Write the config of a new run, or check that an old run is the same one.

    Raises:
        DatasetError: It is another one, or the folder cannot be written.
        ForeignFile: There is no run, but something else.
    """
    wanted = {
        **asdict(config),
        "data_fingerprint": dataset.fingerprint,
        "withheld": dataset.withheld,
    }
    path = folder / run_folder.CONFIG_FILE
    if path.is_file():
        usual = {"changes": {}, "withheld": ""}  # of runs that are older than these
        found = {**usual, **run_folder.read_config(folder)}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise DatasetError(
                    f"{folder} holds a run with {name} {found.get(name)}, not {value}.",
                    "Choose another output folder, or remove this one.",
                )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = next(folder.iterdir(), None)
    except OSError as exc:
        raise DatasetError(
            f"The run folder {folder} cannot be written: {exc.strerror}.", "Choose another with -o."
        ) from exc
    if foreign:
        raise ForeignFile(
            f"{folder} holds {foreign.name}, and no run of `cxr train`.",
            "Choose another output folder, or empty this one.",
        )
    started = {**wanted, "recipe": asdict(config.recipe), "commit": _commit()}
    run_folder.write_text(
        path, msgspec.json.format(msgspec.json.encode(started), indent=2).decode()
    )


def _commit() -> str:
    """The commit of the trainer's own checkout; "unknown" for an installed copy."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
    ]
    try:
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _train(config: FitConfig, dataset: Dataset, folder: Path) -> None:
    done = run_folder.resume_from(folder)
    where = f", going on after epoch {done}" if done else ""
    log.info("2 train     %s: %d epochs%s", config.model, config.epochs, where)
    model = train_network(config, dataset, _callbacks(folder))
    model.load_weights(run_folder.best_weights(folder))
    _finish(model, config, dataset.train, folder)


def train_network(
    config: FitConfig, dataset: Dataset, callbacks: list[keras.callbacks.Callback]
) -> keras.Model:
    """Train one network to its last epoch, and judge it on the validation films after each.

    Args:
        config: What to train.
        dataset: Its test films are not looked at.
        callbacks: What else happens after each epoch.

    Raises:
        DatasetError: The first weights cannot be had.
    """
    keras.utils.set_random_seed(config.seed)
    model = _build(config, config.recipe.policy, augment=config.recipe.augmentation)
    if config.pretrained:
        load_vgg16_convolutions(model, config.vgg16_weights)
    _compile(model, config, len(dataset.train))
    train, validation = (
        (films.pixels, _truth(films), _weights(films))
        for films in (dataset.train, dataset.validation)
    )
    model.fit(
        **feed(train, validation, config.batch_size, config.seed),
        epochs=config.epochs,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model


def _build(config: FitConfig, policy: str, *, augment: float = 1.0) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    return BUILDERS[config.model](config.seed, pretrained=config.pretrained, augment=augment)


def _truth(films: Films) -> dict[str, np.ndarray]:
    """The right answers to both questions, (N, 1) each."""
    return {
        "pneumonia": films.labels[:, None].astype(np.float32),
        "viral": (films.etiology == "viral")[:, None].astype(np.float32),
    }


def _weights(films: Films) -> dict[str, np.ndarray]:
    """How much each film counts for each question, (N,) each; the second only where it is known."""
    share = np.bincount(films.labels, minlength=2) / len(films)
    return {
        "pneumonia": (0.5 / share)[films.labels].astype(np.float32),
        "viral": (films.etiology != "").astype(np.float32),
    }


def _compile(model: keras.Model, config: FitConfig, films: int) -> None:
    steps = -(-films // config.batch_size)
    recipe = config.recipe
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 10,
        warmup_target=recipe.learning_rate,
        warmup_steps=WARMUP_EPOCHS * steps,
        decay_steps=max(1, (config.epochs - WARMUP_EPOCHS) * steps),
    )
    model.compile(
        keras.optimizers.AdamW(
            schedule,
            weight_decay=recipe.weight_decay,
            clipnorm=1.0,
        ),
        {
            "pneumonia": keras.losses.BinaryCrossentropy(
                from_logits=True, label_smoothing=recipe.label_smoothing
            ),
            "viral": keras.losses.BinaryCrossentropy(from_logits=True),
        },
        loss_weights={"pneumonia": 1.0, "viral": VIRAL_SHARE},
        metrics={
            "pneumonia": [
                keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0),
                keras.metrics.AUC(num_thresholds=2000, name="auc", from_logits=True),
            ]
        },
        # On a CPU, TensorFlow's own kernels are faster than XLA's; the others choose well.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def _callbacks(folder: Path) -> list[keras.callbacks.Callback]:
    """What happens after each epoch: note it, keep the best, and save where to go on from.

    The best epoch is the one of the lowest validation loss: nearly every epoch separates the
    validation films, so the highest AUC is an accident. Training goes on to the last epoch, where
    the learning rate has come to rest.

    The state that a resumed run starts from is written last, so that a kill in between repeats an
    epoch and loses none. Each best epoch has a file of its own: a torn one is never the best.
    """
    past = run_folder.read_history(folder).get(run_folder.WATCHED, [])
    return [
        keras.callbacks.CSVLogger(str(folder / run_folder.HISTORY_FILE), append=bool(past)),
        keras.callbacks.ModelCheckpoint(
            str(folder / run_folder.RESUME_FOLDER / run_folder.BEST_WEIGHTS),
            monitor=run_folder.WATCHED,
            mode="min",
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=min(past, default=None),
        ),
        _Clock(folder),
        keras.callbacks.BackupAndRestore(
            str(folder / run_folder.STATE_FOLDER), double_checkpoint=True, delete_checkpoint=False
        ),
    ]


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds up the seconds spent training over all resumed parts."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / run_folder.SECONDS_FILE
        self._since = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        now = time.monotonic()
        seconds = run_folder.read_seconds(self._path.parent) + now - self._since
        run_folder.write_text(self._path, f"{seconds:.1f}\n")
        self._since = now


def _finish(model: keras.Model, config: FitConfig, train: Films, folder: Path) -> None:
    """Save the network that is kept, with everything that it answers."""
    final = keep(model, config)
    whole = answer(final, fit_typical(train.pixels), both_ways=config.recipe.both_ways)
    partial = folder / f"partial.{run_folder.MODEL_FILE}"
    whole.save(partial)
    partial.replace(folder / run_folder.MODEL_FILE)


def keep(model: keras.Model, config: FitConfig) -> keras.Model:
    """A float32 network without augmentation, its large weights exact in half precision.

    Rounding happens here, before anything is measured, so that the exporter can store the weights
    in half the bytes without changing any answer.
    """
    final = _build(config, "float32", augment=0.0)
    final.set_weights(model.get_weights())
    for layer in final.layers:
        if layer.trainable and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights(
                [w.astype(np.float16).astype(np.float32) for w in layer.get_weights()]
            )
    return final
