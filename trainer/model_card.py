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
from trainer.data.corruptions import corrupt_images
from trainer.model.heads import EVIDENCE_METHODS
from trainer.model.networks import SIZE_PX
from trainer.saliency_checks import check_evidence

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.config import FitConfig
    from trainer.data.dataset import Dataset, LabelledImages

log = logging.getLogger(__name__)
SHIFTED_VALIDATION = "shifted validation"
CALIBRATION_SPLITS = ("validation", SHIFTED_VALIDATION)
IMBALANCE_NOTE = (
    "Each class weighs the same in the loss: a film counts by the inverse share of its class in "
    "the training part. Calibration on validation then restores honest probabilities."
)


def build_model_card(
    config: FitConfig, dataset: Dataset, folder: Path, *, open_test: bool
) -> ModelCard:
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
    model = _load_network(folder)
    films = {
        "validation": dataset.validation,
        SHIFTED_VALIDATION: corrupt_images(dataset.validation),
    }
    if open_test and dataset.test is not None:
        films["test"] = dataset.test
    answers = {split: evaluate.predict_outputs(model, part) for split, part in films.items()}
    calibration = evaluate.calibrate(
        np.concatenate([films[split].labels for split in CALIBRATION_SPLITS]),
        np.concatenate([answers[split].logits for split in CALIBRATION_SPLITS]),
        "validation, as it is and shifted",
    )
    judged = {
        split: _calibrate_predictions(calibration, part, answers[split].logits)
        for split, part in films.items()
    }
    validation = judged["validation"]
    threshold = evaluate.choose_threshold(validation.images.labels, validation.probabilities)
    elsewhere = {
        name: evaluate.predict_outputs(model, part) for name, part in dataset.external.items()
    }
    seen = evaluate.predict_atypicality(model, dataset.train)
    real = {split: films[split] for split in films if split != SHIFTED_VALIDATION}
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
            split: evaluate.evaluate_split(split, part, threshold.value)
            for split, part in judged.items()
        },
        history=_make_history(folder),
        training=_make_training(config, dataset, folder, count_trainable_weights(model)),
        versions=_collect_versions(),
        band=evaluate.choose_undecided_band(
            validation.images.labels, validation.probabilities, threshold.value
        ),
        external=[
            evaluate.evaluate_external(
                name,
                _calibrate_predictions(calibration, part, elsewhere[name].logits),
                elsewhere[name].atypicality > evaluate.REJECT_ABOVE,
                threshold.value,
            )
            for name, part in dataset.external.items()
        ],
        etiology=evaluate.evaluate_etiology(real, {split: answers[split] for split in real}),
        typicality=evaluate.choose_ood_limits(
            seen,
            {split: answers[split].atypicality for split in real}
            | {name: found.atypicality for name, found in elsewhere.items()},
        ),
        evidence=_evaluate_evidence(model, validation.images, config.seed),
        audit=dataset.audit,
        withheld=dataset.withheld,
    )
    log.info("4 write     %s", folder)
    run_folder.write_images(folder, dataset.validation, dataset.train)
    run_folder.write_predictions(folder, {split: judged[split] for split in real})
    run_folder.draw_figures(folder, card)
    run_folder.write_run_card(folder, card)
    return card


def _load_network(folder: Path) -> keras.Model:
    """The network of a run folder.

    Raises:
        DatasetError: It is not as it was written, or of a version that kept no record and broken.
    """
    run_folder.check_network(folder)
    try:
        return keras.models.load_model(folder / run_folder.MODEL_FILE, compile=False)
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as exc:
        raise run_folder.changed_file_error(folder, run_folder.MODEL_FILE) from exc


def _calibrate_predictions(
    calibration: Calibration, films: LabelledImages, logits: np.ndarray
) -> evaluate.CalibratedPredictions:
    return evaluate.CalibratedPredictions(films, logits, calibration.apply(logits))


def _evaluate_evidence(model: keras.Model, validation: LabelledImages, seed: int) -> Evidence:
    _, height, width = model.output["evidence"].shape
    checked = check_evidence(model, validation, seed)
    return Evidence(EVIDENCE_METHODS[model.name], height, width, checked)


def _make_history(folder: Path) -> History:
    columns = run_folder.read_history(folder)
    return History(
        loss=columns["pneumonia_loss"],
        val_loss=columns["val_pneumonia_loss"],
        accuracy=columns["pneumonia_accuracy"],
        val_accuracy=columns["val_pneumonia_accuracy"],
    )


def count_trainable_weights(model: keras.Model) -> int:
    """How many numbers training has set: not fixed filters, nor what evidence copies."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def _make_training(config: FitConfig, dataset: Dataset, folder: Path, parameters: int) -> Training:
    losses = run_folder.read_history(folder)[run_folder.MONITORED_METRIC]
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
        imbalance=IMBALANCE_NOTE,
        initial_weights="ImageNet" if config.vgg16_weights != "none" else "He initialisation",
        brightness_mean=float(brightness.mean()),
        brightness_sd=float(brightness.std()),
        contrast_mean=float(contrast.mean()),
        contrast_sd=float(contrast.std()),
    )


def _collect_versions() -> dict[str, str]:
    backend = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}[keras.backend.backend()]
    packages = ("keras", backend, "numpy", "pillow", "scikit-learn")
    return {
        "cxr-batch": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
