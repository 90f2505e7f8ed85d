"""Classify a batch of decoded images and make one row for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from batch_scorer.errors import ImageError, ModelOutputInvalid, NotRadiograph
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_checks import PROBABILITY_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.classifier import Classifier, Predictions
    from batch_scorer.results.schema import Score


@dataclass(frozen=True)
class DecodedImage:
    """A file's row after decoding, and its pixels if it must be classified.

    ``pixels`` maps input sizes S to uint8 arrays (S, S).
    """

    row: Score
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


def select_unseen(images: list[DecodedImage], seen: set[str]) -> list[DecodedImage]:
    """Select the images of a batch that the models must classify: the first of each content.

    Args:
        images: The batch.
        seen: Content hashes that were selected before; the new ones are added.
    """
    unseen = []
    for image in images:
        if image.pixels and image.row.sha256 not in seen:
            seen.add(image.row.sha256)
            unseen.append(image)
    return unseen


def classify_images(images: list[DecodedImage], classifiers: list[Classifier]) -> list[Predictions]:
    """Run each model on images that all have pixels. Thread-safe."""
    return [
        c.predict(np.stack([image.pixels[c.card.size_px] for image in images])[..., None])
        for c in classifiers
    ]


@dataclass(frozen=True)
class Batch:
    """A batch: all its images, those that the models classified, and each model's predictions."""

    images: list[DecodedImage]
    unseen: list[DecodedImage]
    predictions: list[Predictions]


def make_rows(
    batch: Batch, classifiers: list[Classifier], known: dict[str, Score], *, keep_atypical: bool
) -> Iterator[Score]:
    """Yield the rows of one batch in its order; byte-identical copies get the same scores.

    Args:
        batch: The batch. Batches must come in the order in which their images were selected.
        classifiers: The models; the first one decides.
        known: Rows of images that were classified before, by content hash; the new ones are added.
        keep_atypical: Also score images that the first model would reject as atypical.
    """
    for index, image in enumerate(batch.unseen):
        row = _add_intensity_stats(image, classifiers[0].card.size_px)
        try:
            for classifier, predictions in zip(classifiers, batch.predictions, strict=True):
                _check_predictions(classifier.card.name, predictions, index)
        except ModelOutputInvalid as exc:
            row = _mark_unscored(image.row, exc)
        else:
            row = _add_typicality(row, classifiers[0].card, batch.predictions[0], index)
            if row.status == "scored" or keep_atypical:
                row = _add_scores(row, classifiers, batch.predictions, index)
        known[row.sha256] = row
    for image in batch.images:
        first = known.get(image.row.sha256)
        yield image.row if first is None else copy_scores(image.row, first)


def _add_intensity_stats(image: DecodedImage, size_px: int) -> Score:
    pixels = image.pixels[size_px]
    return msgspec.structs.replace(
        image.row, brightness=float(pixels.mean()), contrast=float(pixels.std())
    )


def _check_predictions(model: str, predictions: Predictions, index: int) -> None:
    """Refuse predictions that are impossible for an image, even those that its row would not hold.

    Raises:
        ModelOutputInvalid: A probability is not a number from 0 to 1, or an atypicality or a value
            of the evidence map is not finite.
    """
    for name in ("probability", "viral", "atypicality", "evidence"):
        if (values := getattr(predictions, name)) is None:
            continue
        found = np.atleast_1d(values[index])
        expected, valid = "a finite number", np.isfinite(found)
        if name in {"probability", "viral"}:
            expected = "a number from 0 to 1"
            valid = (found >= -PROBABILITY_TOLERANCE) & (found <= 1 + PROBABILITY_TOLERANCE)
        if not valid.all():
            raise ModelOutputInvalid(
                f"Expected {expected} as {name} from the model {model}, "
                f"found {found[~valid][0]:g}.",
                "Score the image with another model, and report this to the model's author.",
            )


def _mark_unscored(row: Score, error: ImageError) -> Score:
    return msgspec.structs.replace(row, status=error.status, reason=error.code, detail=str(error))


def _add_typicality(row: Score, card: ModelCard, predictions: Predictions, index: int) -> Score:
    """Add the typicality to a row; reject an image that looks unlike any training image."""
    detector = card.typicality
    if detector is None or predictions.atypicality is None:
        return row
    atypicality = float(predictions.atypicality[index])
    if atypicality <= detector.reject_above:
        return msgspec.structs.replace(
            row,
            typicality=detector.compute_typicality(atypicality),
            atypical=atypicality > detector.flag_above,
        )
    error = NotRadiograph(
        "Expected an upright frontal chest X-ray like the training images, found an image that "
        "is unlike them.",
        "Check for a photo, a page, a side view, or an X-ray that is inverted, rotated or "
        "bordered. Use --keep-atypical to score it anyway.",
    )
    return msgspec.structs.replace(_mark_unscored(row, error), typicality=0.0, atypical=True)


def _add_scores(
    row: Score, classifiers: list[Classifier], predictions: list[Predictions], index: int
) -> Score:
    probabilities = [_clip_probability(prediction.probability[index]) for prediction in predictions]
    band = classifiers[0].card.band
    flags = [p >= c.card.threshold.value for p, c in zip(probabilities, classifiers, strict=True)]
    viral = predictions[0].viral
    return msgspec.structs.replace(
        row,
        status="scored",
        reason="",
        detail="",
        probabilities=tuple(probabilities),
        prediction=CLASSES[flags[0]],
        undecided=band.contains(probabilities[0]) if band else None,
        viral=None if viral is None else _clip_probability(viral[index]),
        agreement=flags.count(flags[0]) / len(flags),
        spread=max(probabilities) - min(probabilities) if len(probabilities) > 1 else None,
    )


def _clip_probability(probability: np.float32) -> float:
    """Clip a probability to 0..1, which float32 rounding may exceed slightly."""
    return min(1.0, max(0.0, float(probability)))


def copy_scores(row: Score, first: Score) -> Score:
    """Copy the scores of a byte-identical image into a row, unless the row is that image's own."""
    own = {name: getattr(row, name) for name in _FILE_FIELDS} | {"duplicate_of": ""}
    if all(getattr(first, name) == value for name, value in own.items()):
        return first
    return msgspec.structs.replace(first, **own)


_FILE_FIELDS = ("image", "label", "patient", "stamp")
"""Fields of a row that describe the file itself, not its content."""
