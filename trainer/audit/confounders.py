"""The AUC that needs no lungs: a model that sees only global properties of an image.

A logistic regression on width, height, brightness, contrast and file size. A network can reach the
same AUC without locating a lung, so only a higher AUC is evidence for the network. File size and
contrast grow with the visible detail, so they are not blind to the image's content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from batch_scorer.metrics import classification
from batch_scorer.metrics.classification import Estimate
from batch_scorer.model.card import CLASSES
from trainer.data.dataset import find_connected_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.audit.image_stats import ImageStats

FOLDS = 5
MAX_ITERATIONS = 1000
ALL_PROPERTIES = "together"
PROPERTIES = {
    "width": "width_px",
    "height": "height_px",
    "brightness": "brightness",
    "contrast": "contrast",
    "file size": "size_bytes",
}
LOG_PROPERTIES = frozenset({"width", "height", "file size"})


class Shortcut(msgspec.Struct, frozen=True, rename={"missing_reason": "missing"}):
    """AUC of the image-blind model by the properties it uses: one, or all (``ALL_PROPERTIES``).

    ``cross_validation`` covers the images outside the test part; ``test`` evaluates a model fitted
    on all of them. ``constant`` lists properties that all images share, which therefore carry no
    information. ``missing_reason`` states why there are no figures.
    """

    cross_validation: dict[str, Estimate]
    test: dict[str, Estimate]
    constant: list[str]
    missing_reason: str = ""


def measure_shortcut(images: Sequence[ImageStats], seed: int = 0) -> Shortcut:
    """Cross-validate the image-blind model by patient, and evaluate it on test if labelled.

    Images of one patient, or with the same pixels, are in one fold. The scores of all folds are
    pooled. Classes weigh the same in each fold, so scores of different folds are comparable.

    Args:
        images: All images; those of the part "test" are never used for fitting.
        seed: Seed of the folds.
    """
    training = [image for image in images if image.part != "test"]
    test = [image for image in images if image.part == "test" and image.label]
    labels = _encode_labels(training)
    groups = np.empty(0, dtype=np.int32)
    if training:
        groups = find_connected_groups(
            _list_patient_ids(training), [image.pixels_sha256 for image in training]
        )
    if missing := _describe_missing(labels, groups):
        return Shortcut({}, {}, [], missing)
    table = {name: _read_feature(training, name) for name in PROPERTIES}
    constant = [name for name, column in table.items() if np.ptp(column) == 0]
    usable = [name for name in PROPERTIES if name not in constant]
    if not usable:
        return Shortcut(
            {}, {}, constant, "Size, brightness and contrast of all images are the same."
        )
    subsets = {**{name: [name] for name in usable}, ALL_PROPERTIES: usable}
    folds = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    )
    both = len(np.unique(_encode_labels(test))) == len(CLASSES)
    return Shortcut(
        {name: _cross_validate(training, columns, folds) for name, columns in subsets.items()},
        {name: _evaluate_on_test(training, test, columns) for name, columns in subsets.items()}
        if both
        else {},
        constant,
    )


def count_fewest_patients(
    labels: NDArray[np.int64], groups: NDArray[np.int32] | NDArray[np.str_]
) -> int:
    """Count the patients of the class that has fewer.

    Args:
        labels: Shape (N,), the index of each image's class in ``CLASSES``.
        groups: Shape (N,), equal for images of one patient.
    """
    return min(len(np.unique(groups[labels == label])) for label in range(len(CLASSES)))


def _describe_missing(labels: NDArray[np.int64], groups: NDArray[np.int32]) -> str:
    fewest = count_fewest_patients(labels, groups)
    if fewest >= 2 * FOLDS:
        return ""
    return (
        f"Expected images of at least {2 * FOLDS} patients in each class outside the test part, "
        f"found {fewest} in one class, too few for this measurement."
    )


def _cross_validate(
    images: Sequence[ImageStats],
    columns: Sequence[str],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Estimate:
    table, labels = _make_feature_table(images, columns), _encode_labels(images)
    probabilities = np.empty(len(images))
    for fitted, held_out in folds:
        probabilities[held_out] = _fit_model(table[fitted], labels[fitted]).predict_proba(
            table[held_out]
        )[:, 1]
    return _compute_auc(images, probabilities)


def _evaluate_on_test(
    training: Sequence[ImageStats], test: Sequence[ImageStats], columns: Sequence[str]
) -> Estimate:
    fitted = _fit_model(_make_feature_table(training, columns), _encode_labels(training))
    return _compute_auc(test, fitted.predict_proba(_make_feature_table(test, columns))[:, 1])


def _fit_model(table: NDArray[np.float64], labels: NDArray[np.int64]) -> Pipeline:
    fitted: Pipeline = make_shortcut_model().fit(table, labels)
    return fitted


def make_shortcut_model() -> Pipeline:
    """Make the unfitted model: a logistic regression on scaled columns, with balanced classes."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=MAX_ITERATIONS)
    )


def _compute_auc(images: Sequence[ImageStats], probabilities: NDArray[np.float64]) -> Estimate:
    return classification.compute_metrics(
        _encode_labels(images), probabilities, 0.5, _list_patient_ids(images).tolist()
    )["auc"]


def _make_feature_table(
    images: Sequence[ImageStats], columns: Sequence[str]
) -> NDArray[np.float64]:
    return np.stack([_read_feature(images, name) for name in columns], axis=1)


def _read_feature(images: Sequence[ImageStats], name: str) -> NDArray[np.float64]:
    values = np.array([getattr(image, PROPERTIES[name]) for image in images], dtype=np.float64)
    return np.log(values) if name in LOG_PROPERTIES else values


def _encode_labels(images: Sequence[ImageStats]) -> NDArray[np.int64]:
    return np.array([CLASSES.index(image.label) for image in images], dtype=np.int64)


def _list_patient_ids(images: Sequence[ImageStats]) -> NDArray[np.str_]:
    """List the patient of each image; an image without one counts as a separate patient."""
    return np.array([image.patient or image.key for image in images])
