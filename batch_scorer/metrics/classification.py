"""Classification metrics, shared by the trainer, labelled batches and the report.

Every metric is an ``Estimate``: a value, a 95 % interval and the number of images behind it. If
patients have several images, a bootstrap draws patients, because images of one child are not
independent. Otherwise proportions have Wilson's interval and other metrics a bootstrap over images.
A proportion of exactly 0 or 1 has Wilson's interval too, because a bootstrap sees no spread there.

Two models on the same images are compared by a paired bootstrap: every draw of patients serves
both. DeLong's test is not used, because it assumes independent images.

Source: Wilson 1927; Field and Welsh 2007 (cluster bootstrap); Guo et al. 2017 (ECE); Davison and
Hinkley 1997, section 4.4 (p from a bootstrap).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer.system.strict_json import Count, FiniteFloat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

METRICS = ("accuracy", "precision", "recall", "specificity", "f1", "auc", "brier", "ece")
CALIBRATION_BINS = 10
COMPARED_METRICS = ("auc", "accuracy")
RESAMPLES = 1000
COMPARISON_RESAMPLES = 10_000
MAX_BLOCK_WEIGHTS = 4_000_000
CONFIDENCE_LEVEL = 0.95


class Estimate(msgspec.Struct, frozen=True):
    """A number with its 95 % interval; None if the images do not define it."""

    value: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    n: Count


class ConfusionMatrix(msgspec.Struct, frozen=True):
    """Counts of images; pneumonia is the positive class."""

    true_positive: Count
    false_positive: Count
    true_negative: Count
    false_negative: Count

    @property
    def total(self) -> int:
        """The number of images."""
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative


class Curve(msgspec.Struct, frozen=True):
    """The points of a curve."""

    x: list[FiniteFloat]
    y: list[FiniteFloat]


def compute_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    patients: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute each metric of ``METRICS`` with its interval.

    Args:
        labels: Shape (N,), 1 pneumonia, 0 normal.
        probabilities: Shape (N,), P(pneumonia).
        threshold: An image is flagged if its probability is at or above it.
        patients: Shape (N,), one ID per image; None if unknown.
        resamples: Bootstrap draws.
        seed: The seed of the bootstrap.

    Returns:
        One estimate per metric. An undefined value, such as the AUC of one class, is None.
    """
    y, p = _as_arrays(labels, probabilities)
    if not len(y):
        return dict.fromkeys(METRICS, Estimate(None, None, None, 0))
    groups = _group_by_patient(len(y), patients)
    clustered = int(groups.max()) + 1 < len(y)
    point = _compute_weighted(np.ones((1, len(y))), y, p, threshold)
    draws = _bootstrap(groups, y, p, threshold, resamples=resamples, seed=seed)
    counts = _proportion_counts(confusion_matrix(y, p, threshold))
    return {
        name: _make_estimate(
            float(point[name][0]),
            draws[name],
            counts.get(name),
            n=_sample_size(name, y, counts),
            clustered=clustered,
        )
        for name in METRICS
    }


def compare_models(
    labels: ArrayLike,
    first: tuple[ArrayLike, float],
    second: tuple[ArrayLike, float],
    patients: Sequence[str] | None = None,
    *,
    resamples: int = COMPARISON_RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Estimate, float]]:
    """Compare two models on the same images.

    Args:
        labels: Shape (N,), 1 pneumonia, 0 normal.
        first: The probabilities of one model, shape (N,), and its own threshold.
        second: The same of the other model.
        patients: Shape (N,), one ID per image; None if unknown.
        resamples: Bootstrap draws; each serves both models, so the difference is paired.
        seed: The seed of the bootstrap.

    Returns:
        For each metric of ``COMPARED_METRICS`` that the images define: first minus second with its
        interval, and the two-sided p for no difference, which is twice the smaller proportion of
        draws on one side of zero.
    """
    y = np.asarray(labels, dtype=np.int64)
    groups = _group_by_patient(len(y), patients)
    points, draws = [], []
    for probabilities, threshold in (first, second):
        p = np.asarray(probabilities, dtype=np.float64)
        points.append(_compute_weighted(np.ones((1, len(y))), y, p, threshold))
        draws.append(_bootstrap(groups, y, p, threshold, resamples=resamples, seed=seed))
    differences = {}
    for name in COMPARED_METRICS:
        value = float(points[0][name][0] - points[1][name][0])
        drawn = draws[0][name] - draws[1][name]
        drawn = drawn[np.isfinite(drawn)]
        if np.isfinite(value):
            estimate = _make_estimate(value, drawn, None, n=len(y), clustered=True)
            differences[name] = (estimate, _bootstrap_p_value(drawn))
    return differences


def confusion_matrix(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float
) -> ConfusionMatrix:
    """Count images by label and by side of the threshold."""
    y, p = _as_arrays(labels, probabilities)
    flagged = p >= threshold
    return ConfusionMatrix(
        true_positive=int((flagged & (y == 1)).sum()),
        false_positive=int((flagged & (y == 0)).sum()),
        true_negative=int((~flagged & (y == 0)).sum()),
        false_negative=int((~flagged & (y == 1)).sum()),
    )


def estimate_proportion(successes: int, n: int) -> Estimate:
    """Estimate a proportion with Wilson's 95 % interval."""
    if n == 0:
        return Estimate(None, None, None, 0)
    share, z = successes / n, NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2)
    middle = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return Estimate(share, max(low, 0.0), min(high, 1.0), n)


def roc_points(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Compute the corners of the ROC curve: x false positive rate, y true positive rate."""
    y, p = _as_arrays(labels, probabilities)
    if len(np.unique(y)) < 2:  # noqa: PLR2004 - the two classes
        return Curve([], [])
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(y, p)
    return Curve(_round_all(false_positive), _round_all(true_positive))


def reliability_points(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Compute mean probability (x) and observed proportion of pneumonia (y) per bin."""
    from sklearn.calibration import calibration_curve

    y, p = _as_arrays(labels, probabilities)
    observed, predicted = calibration_curve(y, p, n_bins=CALIBRATION_BINS)
    return Curve(_round_all(predicted), _round_all(observed))


def threshold_at_sensitivity(labels: ArrayLike, probabilities: ArrayLike, target: float) -> float:
    """Find the highest threshold that flags at least ``target`` of the images with pneumonia.

    The threshold lies halfway between two neighbouring probabilities, so that rounding in another
    runtime cannot move an image across it.

    Raises:
        ValueError: No image shows pneumonia.
    """
    y, p = _as_arrays(labels, probabilities)
    positives = np.sort(p[y == 1])
    if not len(positives):
        raise ValueError("expected images with pneumonia to choose a threshold, found none")
    last_flagged = positives[int(np.floor(len(positives) * (1 - target) + 1e-9))]
    below = p[p < last_flagged]
    return float((last_flagged + (below.max() if len(below) else 0.0)) / 2)


def _as_arrays(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)


def _group_by_patient(images: int, patients: Sequence[str] | None) -> NDArray[np.int64]:
    """Assign a group number to each image: one group per patient, or per image without patients."""
    if patients is None:
        return np.arange(images)
    return np.asarray(np.unique(patients, return_inverse=True)[1], dtype=np.int64)


def _bootstrap_p_value(drawn: NDArray[np.float64]) -> float:
    """Return the two-sided p; one is added to each count, because no draws can show p = 0."""
    smaller = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (smaller + 1) / (len(drawn) + 1))


def _round_all(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _bootstrap(
    groups: NDArray[np.int64],
    y: NDArray[np.int64],
    p: NDArray[np.float64],
    threshold: float,
    *,
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Compute each metric for each draw of groups, in blocks to bound memory."""
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    shares = np.full(n_groups, 1 / n_groups)
    rows = max(1, min(resamples, MAX_BLOCK_WEIGHTS // len(groups)))
    blocks = [
        _compute_weighted(
            rng.multinomial(n_groups, shares, size=min(rows, resamples - start))[:, groups],
            y,
            p,
            threshold,
        )
        for start in range(0, resamples, rows)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in METRICS}


def _compute_weighted(
    weights: NDArray[Any], y: NDArray[np.int64], p: NDArray[np.float64], threshold: float
) -> dict[str, NDArray[np.float64]]:
    """Compute each metric for each row of image weights: (rows, N) to (rows,)."""
    flagged = p >= threshold
    tp, fp, tn, fn = (
        weights @ mask.astype(float)
        for mask in (
            flagged & (y == 1),
            flagged & (y == 0),
            ~flagged & (y == 0),
            ~flagged & (y == 1),
        )
    )
    total = tp + fp + tn + fn
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": (tp + tn) / total,
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "auc": _auc(weights, y, p),
            "brier": weights @ (p - y) ** 2 / total,
            "ece": _ece(weights, y, p) / total,
        }


def _auc(
    weights: NDArray[Any], y: NDArray[np.int64], p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the weighted AUC: pairs with the higher score for pneumonia; ties count half."""
    order = np.argsort(p, kind="stable")
    tie_starts = np.unique(p[order], return_index=True)[1]
    sorted_weights = weights[:, order]
    positives = np.add.reduceat(sorted_weights * (y[order] == 1), tie_starts, axis=1)
    negatives = np.add.reduceat(sorted_weights * (y[order] == 0), tie_starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.asarray((positives * below).sum(axis=1) / pairs)


def _ece(
    weights: NDArray[Any], y: NDArray[np.int64], p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the expected calibration error over equal bins, times the total weight."""
    in_bin = np.eye(CALIBRATION_BINS)[
        np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    ]
    return np.asarray(np.abs((weights * (p - y)) @ in_bin).sum(axis=1))


def _proportion_counts(counts: ConfusionMatrix) -> dict[str, tuple[int, int]]:
    tp, fp = counts.true_positive, counts.false_positive
    tn, fn = counts.true_negative, counts.false_negative
    return {
        "accuracy": (tp + tn, counts.total),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp),
    }


def _sample_size(name: str, y: NDArray[np.int64], counts: dict[str, tuple[int, int]]) -> int:
    return counts[name][1] if name in counts else len(y)


def _make_estimate(
    value: float,
    draws: NDArray[np.float64],
    counts: tuple[int, int] | None,
    *,
    n: int,
    clustered: bool,
) -> Estimate:
    if not np.isfinite(value):
        return Estimate(None, None, None, n)
    if counts is not None and (not clustered or value in (0.0, 1.0)):
        return estimate_proportion(*counts)
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), n)
