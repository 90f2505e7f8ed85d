"""The sections of a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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
    from numpy.typing import NDArray
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


SELF_TEST_IMAGES = 4


SELF_TEST_TOLERANCE = 1e-3


FLOAT16_SELF_TEST_TOLERANCE = 5e-3
"""A GPU adds halves in another order, a CPU rounds less. int8 needs no room: its sums are exact."""


ReducedPrecision = Literal["float16", "int8"]


Loss = Annotated[float, Meta(ge=0, le=1e6)]


Probability = Annotated[float, Meta(ge=-PROBABILITY_TOLERANCE, le=1 + PROBABILITY_TOLERANCE)]


class Threshold(msgspec.Struct, frozen=True):
    """The operating threshold: a film is flagged at or above ``value``."""

    value: Annotated[float, Meta(gt=0, lt=1)]
    rule: str
    chosen_on: str


class Calibration(msgspec.Struct, frozen=True):
    """probability = sigmoid(slope * logit + intercept), fitted on ``fitted_on``.

    Brier score and ECE before and after are those of the same films.
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
        """Turn logits into probabilities, of the same shape."""
        from scipy.special import expit  # slow to load, and a scorer never needs it

        return np.asarray(expit(self.slope * logits + self.intercept))


class Evaluation(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """What the finished model answered on one labelled split.

    ``patients`` is 0 where not every film's patient is known.
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
        """Check what msgspec's constraints cannot say."""
        check_metrics(self.metrics, METRICS)
        check_curves(self.roc, self.reliability)
        check_ascending(self.score_quantiles)


class History(msgspec.Struct, frozen=True):
    """One value per epoch."""

    loss: list[Loss]
    val_loss: list[Loss]
    accuracy: list[Probability]
    val_accuracy: list[Probability]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_equal_lengths(self.loss, self.val_loss, self.accuracy, self.val_accuracy)


class Training(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Where the model came from, enough to make it again."""

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
    """Fixed inputs, by recipe, and the probabilities for them.

    A float32 file has those that Keras gave, any other its own, as judged on validation.
    """

    recipe: str
    probabilities: Annotated[
        list[Probability], Meta(min_length=SELF_TEST_IMAGES, max_length=SELF_TEST_IMAGES)
    ]
    tolerance: Annotated[float, Meta(gt=0, le=FLOAT16_SELF_TEST_TOLERANCE)]


class UndecidedBand(msgspec.Struct, frozen=True):
    """Where an answer is uncertain: from ``low`` up to, not including, ``high``.

    The operating threshold lies in it. ``share`` is the share of the films of ``chosen_on`` that
    fall into it.
    """

    low: Probability
    high: Probability
    rule: str
    chosen_on: str
    share: Estimate

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        if self.low > self.high:  # a model that tells all films apart has an empty one
            raise ValueError(f"expected a band, found one from {self.low} up to {self.high}")
        check_proportions([self.share])

    def holds(self, probability: float) -> bool:
        """Whether an answer is uncertain."""
        return self.low <= probability < self.high


class ExternalDataset(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Normal films from elsewhere: how many of them the model flags, all of them wrongly.

    ``rejected`` films look too little like the training films to be scored; none of them counts as
    flagged. ``share`` is that of the flagged among all films.
    """

    name: str
    images: Count
    flagged: Count
    share: Estimate
    note: str
    rejected: Count = 0

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_proportions([self.share])


class Etiology(msgspec.Struct, frozen=True):
    """The second question: what caused a pneumonia. Weaker than the first, and only for study.

    Output ``viral`` (N,) is the calibrated P(viral | pneumonia). ``references`` holds, by split,
    how well it tells viral from bacterial among the films with pneumonia whose cause is known.
    """

    classes: tuple[str, str]
    calibration: Calibration
    references: Annotated[dict[str, dict[str, Estimate]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        for figures in self.references.values():
            check_metrics(figures, METRICS)


class OodDetection(msgspec.Struct, frozen=True):
    """How much an image looks like the training films.

    Output ``atypicality`` (N,): 0 the median training film, larger the stranger. Above
    ``flag_above`` a film is scored and called atypical; above ``reject_above`` it is not scored.
    ``quantiles`` are 101 quantiles of the training films, from 0 to 1. ``flagged`` and ``rejected``
    say, for each set of films that was looked at, which share that was.
    """

    method: str
    flag_above: FiniteFloat
    reject_above: FiniteFloat
    chosen_on: str
    quantiles: Annotated[list[FiniteFloat], Meta(min_length=2)]
    flagged: dict[str, Estimate]
    rejected: dict[str, Estimate]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        if self.flagged.keys() != self.rejected.keys():
            raise ValueError(
                "expected what is flagged and rejected of the same images, found others"
            )
        check_ascending(self.quantiles)
        check_proportions([*self.flagged.values(), *self.rejected.values()])

    def compute_typicality(self, atypicality: float) -> float:
        """The share of training films that are at least as strange."""
        steps = np.linspace(1, 0, len(self.quantiles))
        return float(np.interp(atypicality, self.quantiles, steps))


class Faithfulness(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Whether the evidence map says what the network looks at, on validation films with pneumonia.

    ``deletion`` is by how much the mean logit falls when the share ``steps`` of places with most
    evidence is blurred away, ``random_deletion`` the same for places chosen at random.
    ``randomised_correlation`` is the mean rank correlation with the map of shuffled weights.
    """

    images: Count
    steps: Annotated[list[FiniteFloat], Meta(min_length=2)]
    deletion: list[FiniteFloat]
    random_deletion: list[FiniteFloat]
    randomised_correlation: FiniteFloat

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_equal_lengths(self.steps, self.deletion, self.random_deletion)

    @property
    def beats_random(self) -> bool:
        """Whether the logit falls faster than by chance, on the mean over all steps."""
        return sum(self.deletion) > sum(self.random_deletion)


class Evidence(msgspec.Struct, frozen=True):
    """The map of evidence: output ``evidence`` (N, height, width), in units of the logit."""

    method: str
    height: Annotated[int, Meta(ge=1, le=1024)]
    width: Annotated[int, Meta(ge=1, le=1024)]
    faithfulness: Faithfulness


class Precision(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """A smaller number format, and what it changed on the validation films.

    ``auc`` is the file's own, ``auc_difference`` what it has more than the float32 network;
    ``largest_difference`` is in probability, ``flips`` the films whose label changed.
    """

    kind: ReducedPrecision
    images: Count
    auc: FiniteFloat
    auc_difference: FiniteFloat
    largest_difference: FiniteFloat
    flips: list[str]
    calibrated_on: str


class PairedDifference(msgspec.Struct, frozen=True):
    """``first`` minus ``second`` in one metric ("auc", or "accuracy" at each one's threshold).

    ``p`` is two-sided; ``p_holm`` is corrected for all differences of the comparison.
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
    """The models that were exported together, in pairs, on the same films.

    ``images_sha256`` tells which films; ``patients`` is 0 where not every film's patient is known.
    """

    split: str
    images: Count
    patients: Count
    images_sha256: str
    method: str
    pairs: list[PairedDifference]

    @property
    def names(self) -> set[str]:
        """The models that were compared."""
        return {name for pair in self.pairs for name in (pair.first, pair.second)}

    def restrict_to(self, names: set[str]) -> ModelComparison | None:
        """The pairs of some models only, or None where there is none."""
        pairs = [pair for pair in self.pairs if {pair.first, pair.second} <= names]
        return msgspec.structs.replace(self, pairs=pairs) if pairs else None


class _Card(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def comparison(self) -> ModelComparison | None: ...


def find_shared_comparison(cards: Sequence[_Card]) -> ModelComparison | None:
    """The comparison that models of a run have in common.

    Only models whose cards carry the very same comparison were measured together, on the same
    films: others are left out, and a model that was exported alone has none.
    """
    for card in cards:
        if card.comparison is None:
            continue
        together = {other.name for other in cards if other.comparison == card.comparison}
        if found := card.comparison.restrict_to(together):
            return found
    return None


class DuplicateCounts(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Groups of films that are copies of each other.

    ``within`` and ``across`` name the parts of the data set: "train", or "train and test".
    ``mixed_labels`` are groups whose films have different labels, ``mixed_patients`` those whose
    file names tell different patients.
    """

    groups: Count
    images: Count
    within: dict[str, Count]
    across: dict[str, Count]
    mixed_labels: Count
    mixed_patients: Count


class Appearance(msgspec.Struct, frozen=True):
    """The median film of one class in one part: pixels a side, and grey from 0 to 255."""

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
    """What ``cxr audit`` counts, in short.

    Parts are those that the data set came in ("train", "val", "test", or "all"), not those that
    training split it into. ``images`` is keyed by part, class and, where file names tell it, cause:
    "train PNEUMONIA viral". ``images_per_patient`` gives the number of patients with that many films
    in one part; ``shared_patients`` the patient numbers found in two parts, and
    ``shared_with_same_cause`` those of them whose films have one cause in both, where labels were
    opened. ``metadata_auc`` is what the film's size, brightness, contrast and file size reach
    without a look at any place in it, keyed by "cross-validation" and, where its labels were
    opened, "test".
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
