"""What a trained network is worth: calibration and threshold on validation, then references.

The order matters and is fixed: (1) logits of the validation images, (2) calibration fitted on them,
(3) the operating threshold and the band around it chosen on them, (4) reference metrics of
validation and, only when asked for, of the test images and of images from elsewhere, which change
nothing.
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
REJECT_ABOVE = 1.0  # where trainer.typicality puts the edge of the training images
BAND_SENSITIVITY = 0.99
PREDICT_BATCH = 32


@dataclass(frozen=True)
class CalibratedPredictions:
    """Calibrated answers for one split; ``logits`` and ``probabilities`` are (N,)."""

    images: LabelledImages
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class NetworkOutputs:
    """What the network of a run folder says of one set of images, (N,) each; both are logits."""

    logits: NDArray[np.float64]
    viral: NDArray[np.float64]
    atypicality: NDArray[np.float64]


def predict_outputs(model: keras.Model, images: LabelledImages) -> NetworkOutputs:
    """Every answer of a network for every image."""
    found = model.predict(images.pixels, batch_size=PREDICT_BATCH, verbose=0)
    names = ("logit", "viral", "atypicality")
    return NetworkOutputs(*(np.asarray(found[name], dtype=np.float64)[:, 0] for name in names))


def predict_atypicality(model: keras.Model, images: LabelledImages) -> NDArray[np.float64]:
    """Atypicality alone, (N,): without the network's convolutions, so quickly."""
    import keras

    single_output = keras.Model(model.input, model.output["atypicality"])
    found = single_output.predict(images.pixels, batch_size=PREDICT_BATCH, verbose=0)
    return np.asarray(found, dtype=np.float64)[:, 0]


def calibrate(
    labels: NDArray[np.int64], logits: NDArray[np.float64], fitted_on: str = "validation"
) -> Calibration:
    """Fit slope and intercept on validation logits (Platt 1999).

    Plain logistic regression with a weak penalty, so that a validation split that is separated
    completely still gives finite numbers.
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
    """The highest threshold that keeps the target sensitivity on validation.

    A rule about sensitivity, not about accuracy: nearly any threshold separates the validation
    images, so the one of best accuracy there is an accident. This one says what it promises, and
    spends what it does not need for that on flagging fewer healthy children.
    """
    return Threshold(
        value=classification.threshold_at_sensitivity(labels, probabilities, TARGET_SENSITIVITY),
        rule=f"the highest threshold with a sensitivity of at least {TARGET_SENSITIVITY:.0%}",
        chosen_on="validation",
    )


def choose_undecided_band(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float
) -> UndecidedBand:
    """Where an answer is uncertain: between two thresholds that would make few errors.

    Below the lower edge lies at most 1 % of the validation images with pneumonia, at or above the
    upper edge at most 1 % of the normal ones. An edge that validation would allow on the other side
    of the operating threshold is drawn to it: where the normal images are told apart so well that no
    flagged one is doubtful, the band lies below the threshold alone, and holds the images with
    pneumonia that the threshold gives up. Each edge stands on 1 % of a class, so on a few images
    only: the band says where to look twice, and promises no error rate elsewhere.
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
        rule=f"below it lies at most {1 - BAND_SENSITIVITY:.0%} of the films with pneumonia, above it at most "
        f"{1 - BAND_SENSITIVITY:.0%} of the normal ones, and the threshold lies in it",
        chosen_on="validation",
        share=classification.estimate_proportion(inside, len(labels)),
    )


def evaluate_external(
    name: str, predictions: CalibratedPredictions, rejected: NDArray[np.bool_], threshold: float
) -> ExternalDataset:
    """How many normal images of another place are flagged; what is rejected, (N,), is not."""
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
    """Calibrate the second question on validation, and say how good it is.

    Args:
        images: By split; one of them is "validation".
        answers: What the network said of them.

    Returns:
        None where the file names of the validation images do not tell both causes.
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
    """Limits of atypicality, from the training images, and what they do to other images.

    Args:
        training: Atypicality of the training images, (N,).
        others: That of other sets by name.
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
    """The reference figures of one split, with intervals by patient."""
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
