"""fit(config) -> a run folder: train, keep the best epoch, evaluate, write the card.

Numbered steps, with the same words in the log: 1 read, 2 train, 3 evaluate, 4 write.
Backend-agnostic Keras 3: see ``trainer.feed`` for how the films get there.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np

from batch_scorer.errors import DatasetError, ForeignFile, ModelFileError
from batch_scorer.model.card import decode_card
from batch_scorer.storage.output import INTERNAL_FOLDER
from trainer import run_folder
from trainer.data.pipeline import make_fit_arguments
from trainer.model.heads import build_inference_model
from trainer.model.networks import BUILDERS
from trainer.model.ood import fit_ood_detector
from trainer.model.pretrained import load_vgg16_convolutions
from trainer.model_card import build_model_card
from trainer.throughput import describe_speed

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.model.card import ModelCard
    from batch_scorer.storage.output import OwnershipRecord
    from trainer.config import FitConfig
    from trainer.data.dataset import Dataset, LabelledImages

log = logging.getLogger(__name__)
VIRAL_LOSS_WEIGHT = 0.3
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
        DatasetError: The folder holds a run of another config or of other films, or a file of a
            finished training that is not as it was written.
        ForeignFile: The folder holds something that the program did not write.
        LedgerError: The folder cannot be written.
    """
    claim_run_folder(folder, config, dataset)
    if not (folder / run_folder.MODEL_FILE).is_file():
        _train(config, dataset, folder)
    log.info("2 train     %s", describe_speed(folder, config.model, len(dataset.train)))
    card = build_model_card(config, dataset, folder, open_test=open_test)
    run_folder.remove_resume(folder)
    return card


def claim_run_folder(
    folder: Path,
    config: FitConfig,
    dataset: Dataset,
    files: tuple[str, ...] = run_folder.RUN_FILES,
) -> None:
    """Write the config of a new run, or check that an old run is the same one.

    Args:
        folder: Made where needed.
        config: What is asked for.
        dataset: What it is asked for on.
        files: What the run is going to write, its config among them.

    Raises:
        DatasetError: It is another one, or the folder cannot be read.
        ForeignFile: Something under a name of the run was not written by this program, or there is
            no run, but something else. Nothing was written.
        LedgerError: The folder cannot be written.
    """
    place = run_folder.open_run(folder)
    place.refuse_links(run_folder.RESUME_FOLDER)
    wanted = {
        **asdict(config),
        "data_fingerprint": dataset.fingerprint,
        "withheld": dataset.withheld,
    }
    found = run_folder.read_config(folder)
    if found is not None:
        _check_same_config(folder, wanted, found)
    claimed = place.has_record
    old: OwnershipRecord = {} if found is None else {run_folder.CONFIG_FILE: []}
    if not claimed and found is not None and _is_finished(folder, config):
        old = {name: [] for name in files if (folder / name).is_file()}
    elif found is None or not claimed:
        _check_no_foreign_files(folder, {INTERNAL_FOLDER, *old})
    weights = [run_folder.format_weights_name(epoch) for epoch in range(1, config.epochs + 1)]
    place.refuse_foreign_files([*files, *weights], old)
    place.prepare()
    if not claimed:
        place.add_to_record(old)
    if found is None:
        started = {**wanted, "recipe": asdict(config.recipe), "commit": _read_commit()}
        text = msgspec.json.format(msgspec.json.encode(started), indent=2)
        place.write(run_folder.CONFIG_FILE, text)


def _check_same_config(folder: Path, wanted: dict[str, object], found: dict[str, object]) -> None:
    found = {"changes": {}, "withheld": "", **found}  # runs may be older than these
    for name, value in wanted.items():
        if found.get(name) != value:
            raise DatasetError(
                f"{folder} holds a run with {name} {found.get(name)}, not {value}.",
                "Choose another output folder, or remove this one.",
            )


def _is_finished(folder: Path, config: FitConfig) -> bool:
    """Whether a version that kept no record left a finished run in a folder."""
    if not all((folder / name).is_file() for name in (run_folder.CARD_FILE, run_folder.MODEL_FILE)):
        return False
    card = run_folder.open_run(folder).read(run_folder.CARD_FILE) or b""
    try:
        return decode_card(card.decode(), run_folder.CARD_FILE).name == config.model
    except (UnicodeDecodeError, ModelFileError):
        return False


def _check_no_foreign_files(folder: Path, own: set[str]) -> None:
    """Make sure that nothing but these names is in a folder."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except OSError as exc:
        raise DatasetError(
            f"The run folder {folder} cannot be read: {exc.strerror}.", "Choose another with -o."
        ) from exc
    for name in sorted(names - own):
        raise ForeignFile(
            f"{folder} holds {name}, and no run of `cxr train` that has it in its record.",
            "Choose another output folder, or empty this one.",
        )


def _read_commit() -> str:
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
    done = run_folder.prepare_resume(folder)
    where = f", going on after epoch {done}" if done else ""
    log.info("2 train     %s: %d epochs%s", config.model, config.epochs, where)
    state = folder / run_folder.format_weights_name(done) if done else None
    model = train_network(config, dataset, [_EpochSaver(folder)], done, state)
    model.load_weights(folder / run_folder.format_weights_name(run_folder.find_best_epoch(folder)))
    _save_final_network(model, config, dataset.train, folder)


def train_network(
    config: FitConfig,
    dataset: Dataset,
    callbacks: list[keras.callbacks.Callback],
    done: int = 0,
    state: Path | None = None,
) -> keras.Model:
    """Train one network to its last epoch, and judge it on the validation films after each.

    Args:
        config: What to train.
        dataset: Its test films are not looked at.
        callbacks: What else happens after each epoch.
        done: Epochs that are done already.
        state: The weights of network and optimiser after them.

    Raises:
        DatasetError: The first weights cannot be had.
    """
    keras.utils.set_random_seed(config.seed)
    model = _build_network(config, config.recipe.policy, augment=config.recipe.augmentation)
    if config.pretrained:
        load_vgg16_convolutions(model, config.vgg16_weights)
    _compile_network(model, config, len(dataset.train))
    if state:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(state)
    train, validation = (
        (films.pixels, _make_targets(films), _compute_sample_weights(films))
        for films in (dataset.train, dataset.validation)
    )
    model.fit(
        **make_fit_arguments(train, validation, config.batch_size, config.seed),
        initial_epoch=done,
        epochs=config.epochs,
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model


def _build_network(config: FitConfig, policy: str, *, augment: float = 1.0) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    return BUILDERS[config.model](config.seed, pretrained=config.pretrained, augment=augment)


def _make_targets(films: LabelledImages) -> dict[str, np.ndarray]:
    """The right answers to both questions, (N, 1) each."""
    return {
        "pneumonia": films.labels[:, None].astype(np.float32),
        "viral": (films.etiology == "viral")[:, None].astype(np.float32),
    }


def _compute_sample_weights(films: LabelledImages) -> dict[str, np.ndarray]:
    """How much each film counts for each question, (N,) each; the second only where it is known."""
    share = np.bincount(films.labels, minlength=2) / len(films)
    return {
        "pneumonia": (0.5 / share)[films.labels].astype(np.float32),
        "viral": (films.etiology != "").astype(np.float32),
    }


def _compile_network(model: keras.Model, config: FitConfig, films: int) -> None:
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
        loss_weights={"pneumonia": 1.0, "viral": VIRAL_LOSS_WEIGHT},
        metrics={
            "pneumonia": [
                keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0),
                keras.metrics.AUC(num_thresholds=2000, name="auc", from_logits=True),
            ]
        },
        # On a CPU, TensorFlow's own kernels are faster than XLA's; the others choose well.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


class _EpochSaver(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps, after each epoch, what a later run goes on from.

    The best epoch is the one of the lowest validation loss: nearly every epoch separates the
    validation films, so the highest AUC is an accident. Training goes on to the last epoch, where
    the learning rate has come to rest. Seconds add up over all resumed parts.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._rows = run_folder.read_history_rows(folder)
        self._seconds = run_folder.read_seconds(folder)
        self._since = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write history, time and weights."""
        figures = {name: str(float(value)) for name, value in sorted((logs or {}).items())}
        self._rows.append({"epoch": str(epoch), **figures})
        weights = _save_to_bytes(self.model.save_weights, "epoch.weights.h5")
        seconds = self._seconds + time.monotonic() - self._since
        run_folder.save_epoch(self._folder, self._rows, seconds, weights)


def _save_to_bytes(write: Callable[[Path], None], name: str) -> bytes:
    """What Keras writes into a file: it opens whatever lies there, so never in the run folder."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path)
            return path.read_bytes()
    except OSError as exc:
        raise DatasetError(
            f"The network cannot be saved in {tempfile.gettempdir()}: {exc.strerror or exc}.",
            "Free some space there or set TMPDIR, then run the same command again.",
        ) from exc


def _save_final_network(
    model: keras.Model, config: FitConfig, train: LabelledImages, folder: Path
) -> None:
    """Save the network that is kept, with everything that it answers."""
    final = make_final_network(model, config)
    whole = build_inference_model(
        final, fit_ood_detector(train.pixels), both_ways=config.recipe.flip_tta
    )
    saved = _save_to_bytes(whole.save, run_folder.MODEL_FILE)
    run_folder.open_run(folder).write(run_folder.MODEL_FILE, saved)


def make_final_network(model: keras.Model, config: FitConfig) -> keras.Model:
    """A float32 network without augmentation, its large weights exact in half precision.

    Rounding happens here, before anything is measured, so that the exporter can store the weights
    in half the bytes without changing any answer.
    """
    final = _build_network(config, "float32", augment=0.0)
    final.set_weights(model.get_weights())
    for layer in final.layers:
        if layer.trainable and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights(
                [w.astype(np.float16).astype(np.float32) for w in layer.get_weights()]
            )
    return final
