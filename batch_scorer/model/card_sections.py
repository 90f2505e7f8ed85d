"""The sections of a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from batch_scorer.metrics.classification import METRICS, ConfusionMatrix, Curve, Estimate
from batch_scorer.model.card_checks import (
    PROBABILITY_TOLERANCE,
    check_ascending,
    check_curves,
    check_equal_lengths,
    check_metrics,
    check_proportions,
)
from batch_scorer.system.strict_json import Count, FiniteFloat, LargeCount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SELF_TEST_IMAGES = 4
SELF_TEST_TOLERANCE = 1e-3
FLOAT16_SELF_TEST_TOLERANCE = 5e-3
"""A GPU sums float16 in another order; a CPU rounds less. int8 sums are exact on both."""

ReducedPrecision = Literal["float16", "int8"]
Loss = Annotated[float, Meta(ge=0, le=1e6)]
Probability = Annotated[float, Meta(ge=-PROBABILITY_TOLERANCE, le=1 + PROBABILITY_TOLERANCE)]


class Threshold(msgspec.Struct, frozen=True):
    """The operating threshold: an image is flagged at or above ``value``."""

    value: Annotated[float, Meta(gt=0, lt=1)]
    rule: str
    chosen_on: str


class Calibration(msgspec.Struct, frozen=True):
    """probability = sigmoid(slope * logit + intercept), fitted on ``fitted_on``.

    Brier score and ECE before and after calibration are of the same images.
    """

    method: str
    slope: FiniteFloat
    intercept: FiniteFloat
    fitted_on: str
    brier_before: FiniteFloat
    ece_before: FiniteFloat
    brier_after: FiniteFloat | None = None
    ece_after: FiniteFloat | None = None

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert logits to probabilities of the same shape."""
        from scipy.special import expit  # slow to load; the scorer does not need it

        return np.asarray(expit(self.slope * logits + self.intercept))


class Evaluation(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """The model's metrics on one labelled split.

    ``patients`` is 0 if the patient of an image is unknown.
    """

    split: str
    images: Count
    patients: Count
    pneumonia: Count
    metrics: dict[str, Estimate]
    confusion: ConfusionMatrix
    roc: Curve
    reliability: Curve
    score_quantiles: Annotated[list[FiniteFloat], Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        check_metrics(self.metrics, METRICS)
        check_curves(self.roc, self.reliability)
        check_ascending(self.score_quantiles)


class History(msgspec.Struct, frozen=True):
    """The learning curves: one value per epoch."""

    loss: list[Loss]
    val_loss: list[Loss]
    accuracy: list[Probability]
    val_accuracy: list[Probability]

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        check_equal_lengths(self.loss, self.val_loss, self.accuracy, self.val_accuracy)


class Training(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """The training record: everything needed to reproduce the model."""

    data: str
    data_fingerprint: str
    images: Annotated[dict[str, Count], Meta(min_length=1)]
    split_policy: str
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    epochs: Count
    best_epoch: Count
    minutes: FiniteFloat
    parameters: LargeCount
    backend: str
    command: str
    commit: str
    imbalance: str
    initial_weights: str
    brightness_mean: FiniteFloat
    brightness_sd: FiniteFloat
    contrast_mean: FiniteFloat
    contrast_sd: FiniteFloat


class SelfTest(msgspec.Struct, frozen=True):
    """The recipe of fixed inputs and the expected probabilities.

    In a float32 file they are the probabilities of Keras. In other formats they are the file's own;
    its metrics were measured on validation images.
    """

    recipe: str
    probabilities: Annotated[
        list[Probability], Meta(min_length=SELF_TEST_IMAGES, max_length=SELF_TEST_IMAGES)
    ]
    tolerance: Annotated[float, Meta(gt=0, le=FLOAT16_SELF_TEST_TOLERANCE)]


class UndecidedBand(msgspec.Struct, frozen=True):
    """The probabilities from ``low`` to below ``high``, for which an image is undecided.

    The band contains the operating threshold. ``share`` is the proportion of undecided images in
    ``chosen_on``.
    """

    low: Probability
    high: Probability
    rule: str
    chosen_on: str
    share: Estimate

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        if self.low > self.high:  # the band of a model without errors is empty
            raise ValueError(f"expected a band in ascending order, found {self.low} to {self.high}")
        check_proportions([self.share])

    def contains(self, probability: float) -> bool:
        """Return whether a probability is in the band."""
        return self.low <= probability < self.high


class ExternalDataset(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """The false positives on normal images from another source.

    ``rejected`` images are too atypical to be scored and do not count as flagged. ``share`` is the
    proportion of flagged images among all.
    """

    name: str
    images: Count
    flagged: Count
    share: Estimate
    note: str
    rejected: Count = 0

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        check_proportions([self.share])


class Etiology(msgspec.Struct, frozen=True):
    """The cause of pneumonia: a second, weaker output, for research only.

    Output ``viral`` (N,) is the calibrated P(viral | pneumonia). ``references`` holds, by split,
    the metrics for viral against bacterial, on images with pneumonia of known cause.
    """

    classes: tuple[str, str]
    calibration: Calibration
    references: Annotated[dict[str, dict[str, Estimate]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        for figures in self.references.values():
            check_metrics(figures, METRICS)


class OodDetection(msgspec.Struct, frozen=True):
    """Detection of images unlike the training images.

    Output ``atypicality`` (N,) is 0 for the median training image and grows with the difference.
    Above ``flag_above`` an image is scored and called atypical; above ``reject_above`` it is not
    scored. ``quantiles`` are the 101 percentiles of the training images, from 0 to 1. ``flagged``
    and ``rejected`` hold the proportion of such images in each evaluated set.
    """

    method: str
    flag_above: FiniteFloat
    reject_above: FiniteFloat
    chosen_on: str
    quantiles: Annotated[list[FiniteFloat], Meta(min_length=2)]
    flagged: dict[str, Estimate]
    rejected: dict[str, Estimate]

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        if self.flagged.keys() != self.rejected.keys():
            raise ValueError(
                "expected flagged and rejected proportions of the same image sets, found others"
            )
        check_ascending(self.quantiles)
        check_proportions([*self.flagged.values(), *self.rejected.values()])

    def compute_typicality(self, atypicality: float) -> float:
        """Return the proportion of training images that are at least as atypical."""
        steps = np.linspace(1, 0, len(self.quantiles))
        return float(np.interp(atypicality, self.quantiles, steps))


class Faithfulness(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Tests of the evidence map on validation images with pneumonia.

    ``deletion`` is the drop of the mean logit after blurring the proportion ``steps`` of cells with
    the most evidence; ``random_deletion`` is the drop for randomly chosen cells.
    ``randomised_correlation`` is the mean rank correlation with the map of shuffled weights.
    """

    images: Count
    steps: Annotated[list[FiniteFloat], Meta(min_length=2)]
    deletion: list[FiniteFloat]
    random_deletion: list[FiniteFloat]
    randomised_correlation: FiniteFloat

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        check_equal_lengths(self.steps, self.deletion, self.random_deletion)

    @property
    def beats_random(self) -> bool:
        """True if the mean drop over all steps is larger than for random cells."""
        return sum(self.deletion) > sum(self.random_deletion)


class Evidence(msgspec.Struct, frozen=True):
    """The evidence map: output ``evidence`` (N, height, width), in units of the logit."""

    method: str
    height: Annotated[int, Meta(ge=1, le=1024)]
    width: Annotated[int, Meta(ge=1, le=1024)]
    faithfulness: Faithfulness


class Precision(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """A smaller number format and its effect on the validation images.

    ``auc`` is that of the file, ``auc_difference`` is file minus float32 network,
    ``largest_difference`` is in probability, and ``flips`` lists the images whose label changed.
    """

    kind: ReducedPrecision
    images: Count
    auc: FiniteFloat
    auc_difference: FiniteFloat
    largest_difference: FiniteFloat
    flips: list[str]
    calibrated_on: str


class PairedDifference(msgspec.Struct, frozen=True):
    """``first`` minus ``second`` in one metric: "auc", or "accuracy" at each model's threshold.

    ``p`` is two-sided; ``p_holm`` is Holm-corrected for all differences of the comparison.
    """

    first: str
    second: str
    metric: str
    difference: Estimate
    p: FiniteFloat
    p_holm: FiniteFloat


class ModelComparison(
    msgspec.Struct, frozen=True, rename={"images": "films", "images_sha256": "films_sha256"}
):
    """Pairwise comparison of the models of one export on the same images.

    ``images_sha256`` identifies the images. ``patients`` is 0 if the patient of an image is
    unknown.
    """

    split: str
    images: Count
    patients: Count
    images_sha256: str
    method: str
    pairs: list[PairedDifference]

    @property
    def names(self) -> set[str]:
        """The names of the compared models."""
        return {name for pair in self.pairs for name in (pair.first, pair.second)}

    def restrict_to(self, names: set[str]) -> ModelComparison | None:
        """Return a copy with only the pairs of some models; None if no pair is left."""
        pairs = [pair for pair in self.pairs if {pair.first, pair.second} <= names]
        return msgspec.structs.replace(self, pairs=pairs) if pairs else None


class _Card(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def comparison(self) -> ModelComparison | None: ...


def find_shared_comparison(cards: Sequence[_Card]) -> ModelComparison | None:
    """Find the comparison that several models of a run share.

    Only models whose cards contain the same comparison were measured together, on the same images.
    Other models are left out; a model of a separate export has no comparison.
    """
    for card in cards:
        if card.comparison is None:
            continue
        together = {other.name for other in cards if other.comparison == card.comparison}
        if found := card.comparison.restrict_to(together):
            return found
    return None


class DuplicateCounts(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Groups of images that are duplicates of each other.

    ``within`` and ``across`` are keyed by parts of the data set: "train", or "train and test".
    ``mixed_labels`` counts groups with different labels; ``mixed_patients`` counts groups whose
    file names state different patients.
    """

    groups: Count
    images: Count
    within: dict[str, Count]
    across: dict[str, Count]
    mixed_labels: Count
    mixed_patients: Count


class Appearance(msgspec.Struct, frozen=True):
    """Medians over the images of one class in one part: size in pixels, grey from 0 to 255."""

    part: str
    label: str
    width_px: FiniteFloat
    height_px: FiniteFloat
    brightness: FiniteFloat
    contrast: FiniteFloat


class DataAudit(
    msgspec.Struct,
    frozen=True,
    rename={
        "images": "films",
        "appearance": "looks",
        "images_per_patient": "films_per_patient",
        "images_without_patient": "films_without_patient",
        "near_duplicates": "alike",
    },
):
    """A summary of ``cxr audit``.

    Parts are the folders of the published data set ("train", "val", "test" or "all"), not the
    splits of training. ``images`` is keyed by part, class and, if file names state it, cause:
    "train PNEUMONIA viral". ``images_per_patient`` counts patients by their number of images in one
    part. ``shared_patients`` counts patient numbers found in two parts; ``shared_with_same_cause``
    counts those whose images have one cause in both, if the labels were opened. ``metadata_auc`` is
    the AUC of image size, brightness, contrast and file size alone, keyed by "cross-validation"
    and, if its labels were opened, "test".
    """

    images: dict[str, Count]
    patients: Count
    images_without_patient: Count
    images_per_patient: dict[Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")], Count]
    shared_patients: dict[str, Count]
    shared_with_same_cause: dict[str, Count]
    identical: DuplicateCounts
    near_duplicates: DuplicateCounts
    appearance: list[Appearance]
    metadata_auc: dict[str, Estimate]
