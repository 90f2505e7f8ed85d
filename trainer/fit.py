"""fit(config) -> a run folder: train, keep the best epoch, evaluate, write the card.

Numbered steps, with the same words in the log: 1 read, 2 train, 3 evaluate, 4 write.
Backend-agnostic Keras 3: arrays go in, no backend's own data pipeline is used.
"""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np

from batch_scorer import __version__
from batch_scorer.card import CARD_VERSION, CLASSES, Calibration, History, ModelCard, Training
from batch_scorer.decoding import DECODE_VERSION
from batch_scorer.errors import DatasetError
from trainer import evaluate, run_folder
from trainer.models import BUILDERS, SIZE_PX, load_vgg16_convolutions, read_both_ways

if TYPE_CHECKING:
    from trainer.dataset import Dataset, Films

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Recipe:
    """How one network is trained unless told otherwise.

    With ``both_ways`` the finished network judges every film as it is and mirrored.
    """

    title: str
    summary: str
    epochs: int
    batch_size: int
    learning_rate: float
    policy: str
    both_ways: bool = False


RECIPES = {
    "mlp": Recipe(
        "Multilayer perceptron",
        "Four dense layers (32, 32, 64, 128) on the film at 64 by 64.",
        epochs=40,
        batch_size=64,
        learning_rate=1e-3,
        policy="float32",
    ),
    "cnn": Recipe(
        "Convolutional network",
        "Five convolutions with batch normalisation on the film at 160 by 160, read as it is "
        "and mirrored.",
        epochs=12,
        batch_size=32,
        learning_rate=1e-3,
        policy="float32",
        both_ways=True,  # on validation: log loss 0.0801 alone, 0.0775 both ways; MLP: worse
    ),
    "vgg16": Recipe(
        "VGG16",
        "The thirteen convolutions of VGG16 with a pooled head on the film at 96 by 96.",
        epochs=8,
        batch_size=32,
        learning_rate=2e-4,
        policy="mixed_bfloat16",
    ),
}
LABEL_SMOOTHING = 0.05
WEIGHT_DECAY = 1e-4
WARMUP_EPOCHS = 1
IMBALANCE = (
    "Each class weighs the same in the loss: a film counts by the inverse share of its class in "
    "the training part. Calibration on validation then restores honest probabilities."
)


@dataclass(frozen=True)
class FitConfig:
    """One training, whole. Repeated on one machine without interruption it gives the same run."""

    model: str
    epochs: int
    batch_size: int
    seed: int
    backend: str
    vgg16_weights: str

    @property
    def pretrained(self) -> bool:
        """Whether VGG16 starts from published weights."""
        return self.vgg16_weights != "none"

    @property
    def command(self) -> str:
        """The command line that repeats this training."""
        weights = f" --vgg16-weights {self.vgg16_weights}" if self.model == "vgg16" else ""
        return (
            f"cxr train DATA -o RUN --model {self.model} --epochs {self.epochs} "
            f"--batch-size {self.batch_size} --seed {self.seed} --backend {self.backend}{weights}"
        )


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
    _claim(folder, config, dataset)
    if not (folder / run_folder.MODEL_FILE).is_file():
        _train(config, dataset, folder)
    card = _evaluate(config, dataset, folder, open_test=open_test)
    shutil.rmtree(folder / run_folder.RESUME_FOLDER, ignore_errors=True)
    return card


def _claim(folder: Path, config: FitConfig, dataset: Dataset) -> None:
    """Write the config of a new run, or check that an old run is the same one."""
    wanted = {**asdict(config), "data_fingerprint": dataset.fingerprint}
    path = folder / run_folder.CONFIG_FILE
    if path.is_file():
        found = run_folder.read_config(folder)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise DatasetError(
                    f"{folder} holds a run with {name} {found.get(name)}, not {value}.",
                    "Choose another output folder, or remove this one.",
                )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DatasetError(
            f"The run folder {folder} cannot be written: {exc.strerror}.", "Choose another with -o."
        ) from exc
    started = {**wanted, "commit": _commit()}
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
    keras.utils.set_random_seed(config.seed)
    recipe = RECIPES[config.model]
    model = _build(config, recipe.policy)
    if config.pretrained:
        load_vgg16_convolutions(model, config.vgg16_weights)
    _compile(model, config, len(dataset.train))
    done = run_folder.resume_from(folder)
    where = f", going on after epoch {done}" if done else ""
    log.info("2 train     %s: %d epochs%s", config.model, config.epochs, where)
    model.fit(
        dataset.train.pixels,
        dataset.train.labels,
        batch_size=config.batch_size,
        epochs=config.epochs,
        validation_data=(dataset.validation.pixels, dataset.validation.labels),
        class_weight=_class_weights(dataset.train.labels),
        callbacks=_callbacks(folder, config),
        verbose=1 if sys.stdout.isatty() else 2,
    )
    model.load_weights(run_folder.best_weights(folder))
    _finish(model, config, folder)


def _build(config: FitConfig, policy: str) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    return BUILDERS[config.model](config.seed, pretrained=config.pretrained)


def _compile(model: keras.Model, config: FitConfig, films: int) -> None:
    steps = -(-films // config.batch_size)
    rate = RECIPES[config.model].learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=rate / 10,
        warmup_target=rate,
        warmup_steps=WARMUP_EPOCHS * steps,
        decay_steps=max(1, (config.epochs - WARMUP_EPOCHS) * steps),
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, clipnorm=1.0),
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING),
        metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0),
            keras.metrics.AUC(num_thresholds=2000, name="auc", from_logits=True),
        ],
        # On a CPU, TensorFlow's own kernels are faster than XLA's; the others choose well.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def _callbacks(folder: Path, config: FitConfig) -> list[keras.callbacks.Callback]:
    """What happens after each epoch: note it, keep the best, and save where to go on from.

    The best epoch is the one of the highest validation AUC: calibration comes later, so a loss that
    only says that all logits are too high or too low must not decide.

    The state that a resumed run starts from is written last, so that a kill in between repeats an
    epoch and loses none. Each best epoch has a file of its own: a torn one is never the best.
    """
    past = run_folder.read_history(folder).get("val_auc", [])
    return [
        keras.callbacks.CSVLogger(str(folder / run_folder.HISTORY_FILE), append=bool(past)),
        keras.callbacks.ModelCheckpoint(
            str(folder / run_folder.RESUME_FOLDER / run_folder.BEST_WEIGHTS),
            monitor="val_auc",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=max(past, default=None),
        ),
        _Clock(folder),
        keras.callbacks.BackupAndRestore(
            str(folder / run_folder.STATE_FOLDER), double_checkpoint=True, delete_checkpoint=False
        ),
        keras.callbacks.EarlyStopping("val_auc", mode="max", patience=max(5, config.epochs // 3)),
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


def _class_weights(labels: np.ndarray) -> dict[int, float]:
    return {label: len(labels) / (2 * int((labels == label).sum())) for label in (0, 1)}


def _finish(model: keras.Model, config: FitConfig, folder: Path) -> None:
    """Save a float32 network whose convolution and dense weights are exact in half precision.

    Rounding happens here, before anything is measured, so that the exporter can store the weights
    in half the bytes without changing any answer.
    """
    final = _build(config, "float32")
    final.set_weights(model.get_weights())
    for layer in final.layers:
        if layer.trainable and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.set_weights(
                [w.astype(np.float16).astype(np.float32) for w in layer.get_weights()]
            )
    if RECIPES[config.model].both_ways:
        final = read_both_ways(final)
    partial = folder / f"partial.{run_folder.MODEL_FILE}"
    final.save(partial)
    partial.replace(folder / run_folder.MODEL_FILE)


def _evaluate(config: FitConfig, dataset: Dataset, folder: Path, *, open_test: bool) -> ModelCard:
    log.info("3 evaluate  %s", config.model)
    keras.config.set_dtype_policy("float32")
    model = keras.models.load_model(folder / run_folder.MODEL_FILE, compile=False)
    validation = dataset.validation
    logits = evaluate.predict_logits(model, validation)
    calibration = evaluate.calibrate(validation.labels, logits)
    judged = {"validation": _judge(calibration, validation, logits)}
    threshold = evaluate.choose_threshold(validation.labels, judged["validation"].probabilities)
    if open_test and dataset.test is not None:
        test_logits = evaluate.predict_logits(model, dataset.test)
        judged["test"] = _judge(calibration, dataset.test, test_logits)
    card = ModelCard(
        card_version=CARD_VERSION,
        name=config.model,
        title=RECIPES[config.model].title,
        summary=RECIPES[config.model].summary,
        decode_version=DECODE_VERSION,
        classes=CLASSES,
        size_px=SIZE_PX,
        threshold=threshold,
        calibration=calibration,
        references={
            split: evaluate.refer(split, part, threshold.value) for split, part in judged.items()
        },
        history=_history(folder),
        training=_training(config, dataset, folder, model.count_params()),
        versions=_versions(),
    )
    log.info("4 write     %s", folder)
    run_folder.write_films(folder, validation, dataset.train)
    run_folder.write_predictions(folder, judged)
    run_folder.draw_figures(folder, card)
    run_folder.write_run_card(folder, card)
    return card


def _judge(calibration: Calibration, films: Films, logits: np.ndarray) -> evaluate.Judgement:
    return evaluate.Judgement(films, logits, evaluate.apply_calibration(calibration, logits))


def _history(folder: Path) -> History:
    columns = run_folder.read_history(folder)
    return History(
        **{name: columns[name] for name in ("loss", "val_loss", "accuracy", "val_accuracy")}
    )


def _training(config: FitConfig, dataset: Dataset, folder: Path, parameters: int) -> Training:
    val_auc = run_folder.read_history(folder)["val_auc"]
    brightness = dataset.train.pixels.mean(axis=(1, 2, 3))
    contrast = dataset.train.pixels.std(axis=(1, 2, 3))
    return Training(
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        films=dataset.counts(),
        split_policy=dataset.split_policy,
        seed=config.seed,
        epochs=len(val_auc),
        best_epoch=int(np.argmax(val_auc)) + 1,
        minutes=round(run_folder.read_seconds(folder) / 60, 1),
        parameters=parameters,
        backend=config.backend,
        command=config.command,
        commit=run_folder.read_config(folder)["commit"],
        imbalance=IMBALANCE,
        initial_weights="ImageNet" if config.vgg16_weights != "none" else "He initialisation",
        brightness_mean=float(brightness.mean()),
        brightness_sd=float(brightness.std()),
        contrast_mean=float(contrast.mean()),
        contrast_sd=float(contrast.std()),
    )


def _versions() -> dict[str, str]:
    backend = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}[keras.backend.backend()]
    packages = ("keras", backend, "numpy", "pillow", "scikit-learn")
    return {
        "cxr-batch": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
