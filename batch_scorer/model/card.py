"""The model contract: a model is one self-describing ONNX file.

Graph: input ``pixels`` uint8 (N, S, S, 1) from ``decode_radiograph``; output ``probability``
float32 (N,), the calibrated P(pneumonia). The outputs ``evidence``, ``atypicality`` and ``viral``
exist if the card describes them; further outputs are allowed.
Metadata: one JSON ``ModelCard`` under the key ``CARD_KEY``.

``CARD_VERSION`` rises by one if a reader of the old version would misread a new card: a field is
removed, renamed or changes its meaning. A new optional field does not raise it. The scorer refuses
every other version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from batch_scorer.errors import CardMissing, CardVersionUnsupported, DecodeVersionMismatch
from batch_scorer.imaging.decode import DECODE_VERSION
from batch_scorer.model.card_checks import (
    MAX_CARD_CHARS,
    check_contents,
)
from batch_scorer.model.card_sections import (
    FLOAT16_SELF_TEST_TOLERANCE,
    SELF_TEST_TOLERANCE,
    Calibration,
    DataAudit,
    Etiology,
    Evaluation,
    Evidence,
    ExternalDataset,
    History,
    ModelComparison,
    OodDetection,
    Precision,
    SelfTest,
    Threshold,
    Training,
    UndecidedBand,
)
from batch_scorer.system.strict_json import Count

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T")

CARD_VERSION = 1
CARD_KEY = "cxr_card"
CLASSES = ("NORMAL", "PNEUMONIA")
SELF_TEST_RECIPE = "phantom-1"


class ModelCard(msgspec.Struct, frozen=True):
    """The model card: everything needed to use, trust or refuse a model.

    ``references`` is keyed by split: "validation", and "test" once that split was opened. Like
    ``calibration`` and ``threshold``, it describes the float32 network. If the file computes in
    another format, ``precision`` gives the difference; None means float32. ``comparison`` covers
    all models of one export. ``withheld`` is the reason why a model may not leave its run folder;
    it is empty in every model file.
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
    references: dict[str, Evaluation]
    history: History
    training: Training
    versions: dict[str, str]
    self_test: SelfTest | None = None
    band: UndecidedBand | None = None
    external: list[ExternalDataset] = []
    comparison: ModelComparison | None = None
    etiology: Etiology | None = None
    typicality: OodDetection | None = None
    evidence: Evidence | None = None
    audit: DataAudit | None = None
    precision: Precision | None = None
    withheld: str = ""

    def __post_init__(self) -> None:
        """Check the constraints that msgspec cannot express."""
        if self.classes != CLASSES:
            raise ValueError(f"expected the classes {CLASSES}, found {self.classes}")
        float16 = self.precision is not None and self.precision.kind == "float16"
        limit = FLOAT16_SELF_TEST_TOLERANCE if float16 else SELF_TEST_TOLERANCE
        if self.self_test and self.self_test.tolerance > limit:
            raise ValueError(
                f"expected a self-test tolerance up to {limit}, found {self.self_test.tolerance}"
            )

    @property
    def reference(self) -> Evaluation:
        """The figures to quote: those of the test split if it was opened, else of validation."""
        return self.references.get("test") or self.references["validation"]


def output_shapes(card: ModelCard, images: int) -> dict[str, tuple[int, ...]]:
    """Return the names of the model's outputs and their shapes for a number of images."""
    shapes: dict[str, tuple[int, ...]] = {"probability": (images,)}
    if card.evidence:
        shapes["evidence"] = (images, card.evidence.height, card.evidence.width)
    if card.typicality:
        shapes["atypicality"] = (images,)
    if card.etiology:
        shapes["viral"] = (images,)
    return shapes


def output_names(card: ModelCard) -> set[str]:
    """Return the names of the model's outputs."""
    return set(output_shapes(card, 1))


def encode_card(card: ModelCard, *, indent: int = 0) -> str:
    """Encode a card as JSON with stable key order."""
    text = msgspec.json.encode(card, order="deterministic")
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def decode_card(text: str | None, where: str) -> ModelCard:
    """Decode and check a card.

    Args:
        text: The JSON; None if the model file has no card.
        where: The file, for error messages.

    Raises:
        CardMissing: ``text`` is None or empty.
        CardVersionUnsupported: The text is not a card, or has another card version.
        DecodeVersionMismatch: The model was trained on pixels decoded by other rules.
    """
    if not text:
        raise CardMissing(
            f"{where} is an ONNX file without a model card.",
            "Use a model that `cxr export` made.",
        )
    if len(text) > MAX_CARD_CHARS:
        raise CardVersionUnsupported(
            f"Expected a model card of at most {MAX_CARD_CHARS:,} characters in {where}, "
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
        raise _broken_card_error(where, exc) from exc
    return card


def _decode(text: str, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, OverflowError) as exc:
        raise _broken_card_error(where, exc) from exc


def _broken_card_error(where: str, error: Exception) -> CardVersionUnsupported:
    return CardVersionUnsupported(
        f"The model card of {where} is broken: {error}.", "Use a model that `cxr export` made."
    )


class _CardVersion(msgspec.Struct):
    card_version: Count


def draw_self_test_images(size_px: int) -> NDArray[np.uint8]:
    """Draw the fixed images of the self-test: a chest phantom with four degrees of haze.

    Two dark ellipses (lungs) on a bright body; haze fills the lower half of one. Plain arithmetic
    on a grid gives the same pixels on every machine.

    Returns:
        Shape (4, size_px, size_px, 1).
    """
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px
    body = 205 - 160 * np.maximum(np.abs(x - 0.5) - 0.36, 0) / 0.14
    lungs = np.zeros_like(x)
    for center in (0.31, 0.69):
        distance = ((x - center) / 0.15) ** 2 + ((y - 0.48) / 0.33) ** 2
        lungs += np.clip(1.4 * (1 - distance), 0, 1)
    haze_mask = np.clip(1 - ((x - 0.31) / 0.16) ** 2 - ((y - 0.62) / 0.22) ** 2, 0, 1)
    images = [body - lungs * (150 - 130 * haze * haze_mask) for haze in (0.0, 0.33, 0.67, 1.0)]
    pixels: NDArray[np.uint8] = np.clip(np.stack(images), 0, 255).astype(np.uint8)
    return pixels[..., None]
