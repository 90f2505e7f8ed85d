"""Evaluation of a trained network: calibration, threshold, then reference metrics.

The order is fixed, so that nothing is ever chosen on test images:

1. Predict logits for the validation images. 2. Fit the calibration on them. 3. Choose the threshold
and the limits of the undecided band on them. 4. Compute reference metrics on validation and, if
requested, on test and external images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from batch_scorer.imaging.file_names import ETIOLOGIES
from batch_scorer.metrics import classification
from batch_scorer.model.card_sections import (
    Calibration,
    Etiology,
    Evaluation,
    ExternalDataset,
    OodDetection,
    Threshold,
    UndecidedBand,
)

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

    from trainer.data.dataset import LabelledImages

TARGET_SENSITIVITY = 0.95
TYPICAL_QUANTILE = 0.98
REJECT_ABOVE = 1.0  # trainer.model.ood scales atypicality so that training images end at 1
BAND_SENSITIVITY = 0.99
PREDICT_BATCH = 32


@dataclass(frozen=True)
class CalibratedPredictions:
    """Predictions for one split; ``logits`` and ``probabilities`` have shape (N,)."""

    images: LabelledImages
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class NetworkOutputs:
    """Outputs of a saved network for N images, each (N,); ``logits`` and ``viral`` are logits."""

    logits: NDArray[np.float64]
    viral: NDArray[np.float64]
    atypicality: NDArray[np.float64]


def predict_outputs(model: keras.Model, images: LabelledImages) -> NetworkOutputs:
    """Predict all outputs of a network for all images."""
    found = model.predict(images.pixels, batch_size=PREDICT_BATCH, verbose=0)
    names = ("logit", "viral", "atypicality")
    return NetworkOutputs(*(np.asarray(found[name], dtype=np.float64)[:, 0] for name in names))


def predict_atypicality(model: keras.Model, images: LabelledImages) -> NDArray[np.float64]:
    """Predict atypicality only, shape (N,). Fast, because it skips the convolutions."""
    import keras

    single_output = keras.Model(model.input, model.output["atypicality"])
    found = single_output.predict(images.pixels, batch_size=PREDICT_BATCH, verbose=0)
    return np.asarray(found, dtype=np.float64)[:, 0]


def calibrate(
    labels: NDArray[np.int64], logits: NDArray[np.float64], fitted_on: str = "validation"
) -> Calibration:
    """Fit the slope and intercept of the logits by Platt scaling (Platt 1999).

    Logistic regression with a weak penalty: without one, perfectly separated classes would give
    infinite coefficients.

    Args:
        labels: Shape (N,), 1 for pneumonia.
        logits: Shape (N,).
        fitted_on: Name of the split, for the model card.
    """
    fitted = LogisticRegression(C=100.0).fit(logits[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    before = classification.compute_metrics(labels, expit(logits), 0.5, resamples=1)
    after = classification.compute_metrics(
        labels, expit(slope * logits + intercept), 0.5, resamples=1
    )
    return Calibration(
        method="Platt scaling",
        slope=slope,
        intercept=intercept,
        fitted_on=fitted_on,
        brier_before=before["brier"].value or 0.0,
        ece_before=before["ece"].value or 0.0,
        brier_after=after["brier"].value,
        ece_after=after["ece"].value,
    )


def choose_threshold(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Threshold:
    """Choose the highest threshold that reaches the target sensitivity on validation.

    Accuracy is a poor rule here: nearly every threshold separates the validation images, so the
    most accurate one is arbitrary. This rule keeps the sensitivity that it states and flags as few
    healthy children as possible.
    """
    return Threshold(
        value=classification.threshold_at_sensitivity(labels, probabilities, TARGET_SENSITIVITY),
        rule=f"the highest threshold with a sensitivity of at least {TARGET_SENSITIVITY:.0%}",
        chosen_on="validation",
    )


def choose_undecided_band(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float
) -> UndecidedBand:
    """Choose the two limits between which a score counts as undecided.

    At most 1 % of the validation images with pneumonia score below the lower limit, and at most 1 %
    of the normal ones score at or above the upper limit. The band always contains the threshold: a
    limit that would fall beyond the threshold is moved to it. Each limit rests on 1 % of a class,
    hence on few images. The band marks images to look at twice and promises no error rate on other
    data.
    """
    low = classification.threshold_at_sensitivity(labels, probabilities, BAND_SENSITIVITY)
    high = 1 - classification.threshold_at_sensitivity(
        1 - labels, 1 - probabilities, BAND_SENSITIVITY
    )
    low, high = min(low, threshold), max(high, threshold)
    inside = int(((probabilities >= low) & (probabilities < high)).sum())
    return UndecidedBand(
        low=low,
        high=high,
        rule=f"below it lies at most {1 - BAND_SENSITIVITY:.0%} of the films with pneumonia, "
        f"above it at most {1 - BAND_SENSITIVITY:.0%} of the normal ones, and the threshold lies "
        "in it",
        chosen_on="validation",
        share=classification.estimate_proportion(inside, len(labels)),
    )


def evaluate_external(
    name: str, predictions: CalibratedPredictions, rejected: NDArray[np.bool_], threshold: float
) -> ExternalDataset:
    """Count how many normal images of an external data set are flagged.

    Args:
        name: Name of the data set.
        predictions: The scores of its images.
        rejected: Shape (N,): True for images rejected as out of distribution, which never count
            as flagged.
        threshold: The model's operating threshold.
    """
    flagged = int(((predictions.probabilities >= threshold) & ~rejected).sum())
    images = len(predictions.probabilities)
    return ExternalDataset(
        name=name,
        images=images,
        flagged=flagged,
        share=classification.estimate_proportion(flagged, images),
        note="No model was trained on them.",
        rejected=int(rejected.sum()),
    )


def evaluate_etiology(
    images: dict[str, LabelledImages], outputs: dict[str, NetworkOutputs]
) -> Etiology | None:
    """Calibrate the viral-or-bacterial output on validation and evaluate it on each split.

    Args:
        images: Images by split; one of them is "validation".
        outputs: The network's outputs for them.

    Returns:
        None if the validation file names do not contain both causes.
    """
    known = {split: part.etiology != "" for split, part in images.items()}
    labels = {
        split: (images[split].etiology[known[split]] == "viral").astype(int) for split in images
    }
    if len(np.unique(labels["validation"])) < 2:  # noqa: PLR2004 - both causes
        return None
    logits = {split: outputs[split].viral[known[split]] for split in images}
    calibration = calibrate(labels["validation"], logits["validation"])
    return Etiology(
        classes=ETIOLOGIES,
        calibration=calibration,
        references={
            split: classification.compute_metrics(
                labels[split],
                calibration.apply(logits[split]),
                0.5,
                images[split].groups[known[split]].tolist(),
            )
            for split in images
            if len(labels[split])
        },
    )


def choose_ood_limits(
    training: NDArray[np.float64], other_sets: dict[str, NDArray[np.float64]]
) -> OodDetection:
    """Choose the limits of atypicality on training images and evaluate them on other sets.

    Args:
        training: Atypicality of the training images, shape (N,).
        other_sets: Atypicality of other sets by name.
    """
    flag_above = float(np.quantile(training, TYPICAL_QUANTILE))
    sets = {"training": training, **other_sets}
    return OodDetection(
        method="distance to the training films in principal components of a small version without "
        "its own brightness and contrast, and the same against the film upside down",
        flag_above=flag_above,
        reject_above=REJECT_ABOVE,
        chosen_on="training",
        quantiles=np.quantile(training, np.linspace(0, 1, 101)).round(5).tolist(),
        flagged={name: _estimate_share(values > flag_above) for name, values in sets.items()},
        rejected={name: _estimate_share(values > REJECT_ABOVE) for name, values in sets.items()},
    )


def _estimate_share(held: NDArray[np.bool_]) -> classification.Estimate:
    return classification.estimate_proportion(int(held.sum()), len(held))


def evaluate_split(split: str, predictions: CalibratedPredictions, threshold: float) -> Evaluation:
    """Compute the reference metrics of one split, with intervals bootstrapped by patient."""
    labels, probabilities = predictions.images.labels, predictions.probabilities
    known = predictions.images.patients.tolist()
    patients = predictions.images.groups.tolist()
    return Evaluation(
        split=split,
        images=len(labels),
        patients=len(set(known)) if all(known) else 0,
        pneumonia=predictions.images.pneumonia,
        metrics=classification.compute_metrics(labels, probabilities, threshold, patients),
        confusion=classification.confusion_matrix(labels, probabilities, threshold),
        roc=classification.roc_points(labels, probabilities),
        reliability=classification.reliability_points(labels, probabilities),
        score_quantiles=np.quantile(probabilities, np.linspace(0, 1, 21)).round(6).tolist(),
    )
