"""What a trained network is worth, written down: answers, figures and the model card."""

from __future__ import annotations

import logging
import platform
import zipfile
from importlib.metadata import version
from typing import TYPE_CHECKING

import keras
import numpy as np

from batch_scorer import __version__
from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.model.card import CARD_VERSION, CLASSES, ModelCard
from batch_scorer.model.card_sections import Calibration, Evidence, History, Training
from trainer import evaluate, run_folder
from trainer.config import RECIPES
from trainer.data.corruptions import shift_films
from trainer.model.heads import EVIDENCE_METHODS
from trainer.model.networks import SIZE_PX
from trainer.saliency_checks import check_evidence

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.config import FitConfig
    from trainer.data.dataset import Dataset, Films

log = logging.getLogger("cxr")
SHIFTED = "shifted validation"
CALIBRATED_ON = ("validation", SHIFTED)
IMBALANCE = (
    "Each class weighs the same in the loss: a film counts by the inverse share of its class in "
    "the training part. Calibration on validation then restores honest probabilities."
)


def describe(config: FitConfig, dataset: Dataset, folder: Path, *, open_test: bool) -> ModelCard:
    """Evaluate the network of a run folder, and write its card, predictions and figures.

    Args:
        config: What was trained.
        dataset: What it was trained on.
        folder: The run folder, with the saved network.
        open_test: Also evaluate the official test films.

    Raises:
        DatasetError: A file that training kept is not as it was written.
    """
    log.info("3 evaluate  %s", config.model)
    keras.config.set_dtype_policy("float32")
    model = _load(folder)
    films = {"validation": dataset.validation, SHIFTED: shift_films(dataset.validation)}
    if open_test and dataset.test is not None:
        films["test"] = dataset.test
    answers = {split: evaluate.ask(model, part) for split, part in films.items()}
    calibration = evaluate.calibrate(
        np.concatenate([films[split].labels for split in CALIBRATED_ON]),
        np.concatenate([answers[split].logits for split in CALIBRATED_ON]),
        "validation, as it is and shifted",
    )
    judged = {
        split: _judge(calibration, part, answers[split].logits) for split, part in films.items()
    }
    validation = judged["validation"]
    threshold = evaluate.choose_threshold(validation.images.labels, validation.probabilities)
    elsewhere = {name: evaluate.ask(model, part) for name, part in dataset.elsewhere.items()}
    seen = evaluate.measure_atypicality(model, dataset.train)
    real = {split: films[split] for split in films if split != SHIFTED}
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
        training=_training(config, dataset, folder, learnt_weights(model)),
        versions=_versions(),
        band=evaluate.choose_band(
            validation.images.labels, validation.probabilities, threshold.value
        ),
        external=[
            evaluate.refer_elsewhere(
                name,
                _judge(calibration, part, elsewhere[name].logits),
                elsewhere[name].atypicality > evaluate.REJECT_ABOVE,
                threshold.value,
            )
            for name, part in dataset.elsewhere.items()
        ],
        etiology=evaluate.refer_etiology(real, {split: answers[split] for split in real}),
        typicality=evaluate.choose_typicality(
            seen,
            {split: answers[split].atypicality for split in real}
            | {name: found.atypicality for name, found in elsewhere.items()},
        ),
        evidence=_evidence(model, validation.images, config.seed),
        audit=dataset.audit,
        withheld=dataset.withheld,
    )
    log.info("4 write     %s", folder)
    run_folder.write_films(folder, dataset.validation, dataset.train)
    run_folder.write_predictions(folder, {split: judged[split] for split in real})
    run_folder.draw_figures(folder, card)
    run_folder.write_run_card(folder, card)
    return card


def _load(folder: Path) -> keras.Model:
    """The network of a run folder.

    Raises:
        DatasetError: It is not as it was written, or of a version that kept no record and broken.
    """
    run_folder.check_network(folder)
    try:
        return keras.models.load_model(folder / run_folder.MODEL_FILE, compile=False)
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as exc:
        raise run_folder.changed(folder, run_folder.MODEL_FILE) from exc


def _judge(calibration: Calibration, films: Films, logits: np.ndarray) -> evaluate.Judgement:
    return evaluate.Judgement(films, logits, calibration.apply(logits))


def _evidence(model: keras.Model, validation: Films, seed: int) -> Evidence:
    _, height, width = model.output["evidence"].shape
    checked = check_evidence(model, validation, seed)
    return Evidence(EVIDENCE_METHODS[model.name], height, width, checked)


def _history(folder: Path) -> History:
    columns = run_folder.read_history(folder)
    return History(
        loss=columns["pneumonia_loss"],
        val_loss=columns["val_pneumonia_loss"],
        accuracy=columns["pneumonia_accuracy"],
        val_accuracy=columns["val_pneumonia_accuracy"],
    )


def learnt_weights(model: keras.Model) -> int:
    """How many numbers training has set: not fixed filters, nor what evidence copies."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def _training(config: FitConfig, dataset: Dataset, folder: Path, parameters: int) -> Training:
    losses = run_folder.read_history(folder)[run_folder.WATCHED]
    brightness = dataset.train.pixels.mean(axis=(1, 2, 3))
    contrast = dataset.train.pixels.std(axis=(1, 2, 3))
    return Training(
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        images=dataset.counts(),
        split_policy=dataset.split_policy,
        seed=config.seed,
        epochs=len(losses),
        best_epoch=int(np.argmin(losses)) + 1,
        minutes=round(run_folder.read_seconds(folder) / 60, 1),
        parameters=parameters,
        backend=config.backend,
        command=config.command,
        commit=(run_folder.read_config(folder) or {}).get("commit", "unknown"),
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
