"""The model contract: one ONNX file says everything about itself.

Graph: input ``pixels`` uint8 (N, S, S, 1) as ``decode_radiograph`` makes them; output
``probability`` float32 (N,), the calibrated P(pneumonia). Further outputs, each only where the card
describes it: ``evidence``, ``atypicality`` and ``viral``; others are allowed.
Metadata: one JSON ``ModelCard`` under the key ``CARD_KEY``.

``CARD_VERSION`` is raised by one whenever a reader of the old version would misread a new card: a
field removed, renamed or with another meaning. A new optional field does not raise it. The scorer
refuses every version but its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from batch_scorer.errors import CardMissing, CardVersionUnsupported, DecodeVersionMismatch
from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.metrics.classification import METRICS, Confusion, Curve, Estimate
from batch_scorer.model.card_checks import (
    LONGEST_CARD,
    ROUNDING,
    check_contents,
    check_curves,
    check_lengths,
    check_metrics,
    check_order,
    check_shares,
)
from batch_scorer.model.comparison import Comparison
from batch_scorer.model.data_audit import DataAudit
from batch_scorer.system.strict_json import Count, Number, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T")

CARD_VERSION = 1
CARD_KEY = "cxr_card"
CLASSES = ("NORMAL", "PNEUMONIA")
SELF_TEST_RECIPE = "phantom-1"
SELF_TEST_IMAGES = 4
SELF_TEST_TOLERANCE = 1e-3
FLOAT16_SELF_TEST_TOLERANCE = 5e-3
"""A GPU adds halves in another order, a CPU rounds less. int8 needs no room: its sums are exact."""
SmallKind = Literal["float16", "int8"]
Loss = Annotated[float, Meta(ge=0, le=1e6)]
Probability = Annotated[float, Meta(ge=-ROUNDING, le=1 + ROUNDING)]


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
    slope: Number
    intercept: Number
    fitted_on: str
    brier_before: Number
    ece_before: Number
    brier_after: Number | None = None
    ece_after: Number | None = None

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn logits into probabilities, of the same shape."""
        from scipy.special import expit  # slow to load, and a scorer never needs it

        return np.asarray(expit(self.slope * logits + self.intercept))


class Reference(msgspec.Struct, frozen=True):
    """What the finished model answered on one labelled split.

    ``patients`` is 0 where not every film's patient is known.
    """

    split: str
    films: Count
    patients: Count
    pneumonia: Count
    metrics: dict[str, Estimate]
    confusion: Confusion
    roc: Curve
    reliability: Curve
    score_quantiles: Annotated[list[Number], Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_metrics(self.metrics, METRICS)
        check_curves(self.roc, self.reliability)
        check_order(self.score_quantiles)


class History(msgspec.Struct, frozen=True):
    """One value per epoch."""

    loss: list[Loss]
    val_loss: list[Loss]
    accuracy: list[Probability]
    val_accuracy: list[Probability]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_lengths(self.loss, self.val_loss, self.accuracy, self.val_accuracy)


class Training(msgspec.Struct, frozen=True):
    """Where the model came from, enough to make it again."""

    data: str
    data_fingerprint: str
    films: Annotated[dict[str, Count], Meta(min_length=1)]
    split_policy: str
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    epochs: Count
    best_epoch: Count
    minutes: Number
    parameters: Size
    backend: str
    command: str
    commit: str
    imbalance: str
    initial_weights: str
    brightness_mean: Number
    brightness_sd: Number
    contrast_mean: Number
    contrast_sd: Number


class SelfTest(msgspec.Struct, frozen=True):
    """Fixed inputs, by recipe, and the probabilities for them.

    A float32 file has those that Keras gave, any other its own, as judged on validation.
    """

    recipe: str
    probabilities: Annotated[
        list[Probability], Meta(min_length=SELF_TEST_IMAGES, max_length=SELF_TEST_IMAGES)
    ]
    tolerance: Annotated[float, Meta(gt=0, le=FLOAT16_SELF_TEST_TOLERANCE)]


class Band(msgspec.Struct, frozen=True):
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
        check_shares([self.share])

    def holds(self, probability: float) -> bool:
        """Whether an answer is uncertain."""
        return self.low <= probability < self.high


class ExternalSet(msgspec.Struct, frozen=True):
    """Normal films from elsewhere: how many of them the model flags, all of them wrongly.

    ``rejected`` films look too little like the training films to be scored; none of them counts as
    flagged. ``share`` is that of the flagged among all films.
    """

    name: str
    films: Count
    flagged: Count
    share: Estimate
    note: str
    rejected: Count = 0

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_shares([self.share])


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


class Typicality(msgspec.Struct, frozen=True):
    """How much an image looks like the training films.

    Output ``atypicality`` (N,): 0 the median training film, larger the stranger. Above
    ``flag_above`` a film is scored and called atypical; above ``reject_above`` it is not scored.
    ``quantiles`` are 101 quantiles of the training films, from 0 to 1. ``flagged`` and ``rejected``
    say, for each set of films that was looked at, which share that was.
    """

    method: str
    flag_above: Number
    reject_above: Number
    chosen_on: str
    quantiles: Annotated[list[Number], Meta(min_length=2)]
    flagged: dict[str, Estimate]
    rejected: dict[str, Estimate]

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        if self.flagged.keys() != self.rejected.keys():
            raise ValueError(
                "expected what is flagged and rejected of the same images, found others"
            )
        check_order(self.quantiles)
        check_shares([*self.flagged.values(), *self.rejected.values()])

    def share_stranger(self, atypicality: float) -> float:
        """The share of training films that are at least as strange."""
        steps = np.linspace(1, 0, len(self.quantiles))
        return float(np.interp(atypicality, self.quantiles, steps))


class Faithfulness(msgspec.Struct, frozen=True):
    """Whether the evidence map says what the network looks at, on validation films with pneumonia.

    ``deletion`` is by how much the mean logit falls when the share ``steps`` of places with most
    evidence is blurred away, ``random_deletion`` the same for places chosen at random.
    ``randomised_correlation`` is the mean rank correlation with the map of shuffled weights.
    """

    films: Count
    steps: Annotated[list[Number], Meta(min_length=2)]
    deletion: list[Number]
    random_deletion: list[Number]
    randomised_correlation: Number

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_lengths(self.steps, self.deletion, self.random_deletion)

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


class Precision(msgspec.Struct, frozen=True):
    """A smaller number format, and what it changed on the validation films.

    ``auc`` is the file's own, ``auc_difference`` what it has more than the float32 network;
    ``largest_difference`` is in probability, ``flips`` the films whose label changed.
    """

    kind: SmallKind
    films: Count
    auc: Number
    auc_difference: Number
    largest_difference: Number
    flips: list[str]
    calibrated_on: str


class ModelCard(msgspec.Struct, frozen=True):
    """All that a reader or a program needs to use, trust or refuse a model.

    ``references`` is keyed by split: "validation", and "test" once that was opened. Like
    ``calibration`` and ``threshold`` they are the float32 network's; where the file computes in
    another format, ``precision`` says how far its answers are from that. None is float32.
    ``comparison`` is that of all models that were exported together. ``withheld`` says why the
    model may not leave its run folder; it is empty in every model file.
    """

    card_version: Count
    name: str
    title: str
    summary: str
    decode_version: Count
    classes: tuple[str, str]
    size_px: Annotated[int, Meta(ge=16, le=1024)]
    threshold: Threshold
    calibration: Calibration
    references: dict[str, Reference]
    history: History
    training: Training
    versions: dict[str, str]
    self_test: SelfTest | None = None
    band: Band | None = None
    external: list[ExternalSet] = []
    comparison: Comparison | None = None
    etiology: Etiology | None = None
    typicality: Typicality | None = None
    evidence: Evidence | None = None
    audit: DataAudit | None = None
    precision: Precision | None = None
    withheld: str = ""

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        if self.classes != CLASSES:
            raise ValueError(f"expected the classes {CLASSES}, found {self.classes}")
        float16 = self.precision is not None and self.precision.kind == "float16"
        limit = FLOAT16_SELF_TEST_TOLERANCE if float16 else SELF_TEST_TOLERANCE
        if self.self_test and self.self_test.tolerance > limit:
            raise ValueError(
                f"expected a self-test to within {limit}, found {self.self_test.tolerance}"
            )

    @property
    def reference(self) -> Reference:
        """The split to quote: the test films where they were opened, else validation."""
        return self.references.get("test") or self.references["validation"]


def output_shapes(card: ModelCard, images: int) -> dict[str, tuple[int, ...]]:
    """What the model file of this card gives for a number of images: outputs and their shapes."""
    shapes: dict[str, tuple[int, ...]] = {"probability": (images,)}
    if card.evidence:
        shapes["evidence"] = (images, card.evidence.height, card.evidence.width)
    if card.typicality:
        shapes["atypicality"] = (images,)
    if card.etiology:
        shapes["viral"] = (images,)
    return shapes


def output_names(card: ModelCard) -> set[str]:
    """What the model file of this card answers."""
    return set(output_shapes(card, 1))


def write_card(card: ModelCard, *, indent: int = 0) -> str:
    """Serialise a card as JSON with stable key order."""
    text = msgspec.json.encode(card, order="deterministic")
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def read_card(text: str | None, where: str) -> ModelCard:
    """Read and check a card.

    Args:
        text: The JSON, or None where a model file has no card.
        where: The file, for the message.

    Raises:
        CardMissing: ``text`` is None or empty.
        CardVersionUnsupported: Not JSON, a field missing, or another card version.
        DecodeVersionMismatch: The model was trained on differently decoded pixels.
    """
    if not text:
        raise CardMissing(
            f"{where} is an ONNX file without a model card.",
            "Use a model that `cxr export` made.",
        )
    if len(text) > LONGEST_CARD:
        raise CardVersionUnsupported(
            f"Expected a model card of at most {LONGEST_CARD:,} characters in {where}, "
            f"found {len(text):,}.",
            "Use a model that `cxr export` made.",
        )
    version = _decode(text, _CardVersion, where).card_version
    if version != CARD_VERSION:
        raise CardVersionUnsupported(
            f"Expected model card version {CARD_VERSION}, found {version} in {where}.",
            "Export the model again with this release, or use the release that made it.",
        )
    card = _decode(text, ModelCard, where)
    if card.decode_version != DECODE_VERSION:
        raise DecodeVersionMismatch(
            f"Expected a model for decode version {DECODE_VERSION}, "
            f"found {card.decode_version} in {where}.",
            "Train and export the model again with this release.",
        )
    try:
        check_contents(msgspec.to_builtins(card))
    except ValueError as exc:
        raise _broken(where, exc) from exc
    return card


def _decode(text: str, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, OverflowError) as exc:
        raise _broken(where, exc) from exc


def _broken(where: str, error: Exception) -> CardVersionUnsupported:
    return CardVersionUnsupported(
        f"The model card of {where} is broken: {error}.", "Use a model that `cxr export` made."
    )


class _CardVersion(msgspec.Struct):
    card_version: Count


def self_test_pixels(size_px: int) -> NDArray[np.uint8]:
    """Draw the fixed films of the self-test: a chest phantom with four degrees of haze.

    Two dark ellipses (lungs) on a bright body; haze fills the lower half of one. Plain arithmetic
    on a grid, so that every machine draws the same pixels.

    Returns:
        Shape (4, size_px, size_px, 1).
    """
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px
    body = 205 - 160 * np.maximum(np.abs(x - 0.5) - 0.36, 0) / 0.14
    lungs = np.zeros_like(x)
    for center in (0.31, 0.69):
        distance = ((x - center) / 0.15) ** 2 + ((y - 0.48) / 0.33) ** 2
        lungs += np.clip(1.4 * (1 - distance), 0, 1)
    haze_place = np.clip(1 - ((x - 0.31) / 0.16) ** 2 - ((y - 0.62) / 0.22) ** 2, 0, 1)
    films = [body - lungs * (150 - 130 * haze * haze_place) for haze in (0.0, 0.33, 0.67, 1.0)]
    pixels: NDArray[np.uint8] = np.clip(np.stack(films), 0, 255).astype(np.uint8)
    return pixels[..., None]
